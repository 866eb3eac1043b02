#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "output.hpp"

/// The history of a zoo file: one JSON object per line in `<zoo file>.history.jsonl`, appended and never rewritten.
namespace vlmzoo::app {

struct Record {
  std::int64_t n = 0;  ///< rises from 1
  std::string time;    ///< "2026-11-24T18:40:02Z"
  std::string user, host;
  std::string action;  ///< "switch" | "rollback"
  std::string from, to;
  std::string reason;
  OrderedJson probe;                     ///< null when the model wasn't tried
  std::string error;                     ///< not empty: the attempt failed and `from` stayed active
  std::string zoo_sha256;                ///< of the zoo file once the change is done; of a failed attempt, as it was
  std::optional<std::int64_t> restores;  ///< of a rollback: the record whose model came back, 0 before the first
};

enum class RecordStatus {
  kCompleted,
  kNotCompleted,  ///< `to` did not become active, or was replaced by hand before the next record
  kFailed         ///< the attempt was given up before anything changed
};
std::string to_string(RecordStatus status);

struct History {
  std::filesystem::path file;
  std::vector<Record> records;
  std::vector<RecordStatus> status;  ///< of each record
  std::string torn;                  ///< an incomplete last line, which a crash left; it never took effect
  std::uint64_t whole_bytes = 0;     ///< up to the end of the last record, its newline included
  bool ends_open = false;            ///< the last record is whole but for its newline

  /// "history.jsonl:4: the last line is incomplete …", for messages; empty when it isn't.
  std::string torn_message() const;
};

std::filesystem::path history_path(const std::filesystem::path& zoo_file);

/// Reads the text of a history; `active` is the model that is active now and decides what the last record came to.
/// Error: kCorrupt for a line that is no record, naming file, line and what to do; a torn last line is no error here.
History parse_history(std::string_view text, const std::filesystem::path& file, const std::string& active);

/// The same from the file; empty when it doesn't exist. Error: also kIo.
History read_history(const std::filesystem::path& file, const std::string& active);

/// The record as a line of the file, newline included.
std::string to_line(const Record& record);
/// The record with its status, as `history --json` shows it.
OrderedJson to_json(const Record& record, RecordStatus status);

/// What a rollback returns to.
struct RollbackTarget {
  std::string name;
  std::int64_t restores = 0;  ///< record whose model it is, 0 before the first
};

/// The model before the last completed switch that isn't rolled back yet; with `to`, the one active after that record.
/// Error: kNotFound when there is none, kMismatch when `active` was edited by hand since.
RollbackTarget rollback_target(const History& history, const std::string& active, std::optional<std::int64_t> to);

}  // namespace vlmzoo::app
