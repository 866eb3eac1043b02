#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "output.hpp"
#include "vlmzoo/zoo_file.hpp"
#include "zoo/history.hpp"

/// Which model of a zoo file is active, and how that changes. A change is two writes under one lock: a record is
/// appended to the history beside the file, then the file is replaced whole. Whatever fails or is killed in between,
/// the file is the old one or the new one, and the history tells which.
namespace vlmzoo::app {

/// Symbolic links are resolved first: `Zoo::file` is the file itself, and configurations and history lie beside it.
/// Errors: kNotFound, kIo, and those of parse_zoo().
Zoo read_zoo(const std::filesystem::path& file);

/// What is to be made active, and what the record says about it.
struct Change {
  std::string action;                        ///< "switch" | "rollback"
  std::string to;                            ///< name of a model
  std::string reason;                        ///< free text, as given by --reason
  OrderedJson probe;                         ///< result of trying the model; null when it wasn't tried
  std::string error;                         ///< why the attempt ended; not empty: only a record is made
  std::optional<std::int64_t> restores;      ///< of a rollback: the record whose model comes back, 0 before the first
  std::optional<std::string> expected_from;  ///< the model that has to be active still
  std::filesystem::path expected_config;     ///< the configuration that `to` has to have still; empty: any
};

/// The writes of a change, in their order.
enum class ChangeStep {
  kPrepared,  ///< the new file lies beside under another name
  kRecorded,  ///< the record is on the disk
  kReplaced   ///< the new file is in place
};
/// Called after each step; for tests, which end the process there.
using AfterStep = std::function<void(ChangeStep)>;

/// Makes `change.to` the active model and returns the record; none when it was active already. Safe against other
/// processes doing the same. Errors: those of read_zoo() and with_active(), kMismatch when the file isn't as expected
/// any more, kCorrupt for a damaged history, kIo; the zoo file is untouched then.
std::optional<Record> set_active(const std::filesystem::path& file, const Change& change, const AfterStep& after = {});

/// Tries a configuration before it becomes active and returns what the record shall say. Throws to refuse it.
using Probe = std::function<OrderedJson(const std::filesystem::path& config)>;

/// Tries `name` and makes it active; none when it was active already. A model that fails is recorded as such and told
/// by an Error (never kUsage or kConfig). Without `probe` nothing is tried. Errors: those of set_active().
std::optional<Record> switch_model(const std::filesystem::path& file, const std::string& name,
                                   const std::string& reason, const Probe& probe);

/// The same for the model that was active before the last switch, or after record `to`. Going back again goes further
/// back. Errors: also kNotFound when there is nothing to go back to.
std::optional<Record> roll_back(const std::filesystem::path& file, std::optional<std::int64_t> to,
                                const std::string& reason, const Probe& probe);

}  // namespace vlmzoo::app
