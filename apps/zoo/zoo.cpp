#include "zoo/zoo.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <ctime>
#include <span>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/log.hpp"
#include "zoo/history_file.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestZoo = std::size_t{1} << 20;

fs::path behind_links(const fs::path& file) {
  std::error_code error;
  fs::path result = fs::canonical(file, error);
  if (error) throw Error(ErrorCode::kNotFound, fmt::format("zoo file {}: {}", file.string(), error.message()));
  return result;
}

std::string read_text(const fs::path& file) {
  try {
    return read_file(file, kLargestZoo);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    throw Error(ErrorCode::kConfig, fmt::format("{}: larger than 1 MB; this is no zoo file", file.string()));
  }
}

std::string utc_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

/// The account, and behind sudo the one that called it.
std::string user_name() {
  const passwd* entry = ::getpwuid(::getuid());
  std::string result = entry != nullptr ? entry->pw_name : std::to_string(::getuid());
  const char* caller = std::getenv("SUDO_USER");
  if (caller != nullptr && *caller != '\0' && result != caller) result = fmt::format("{} ({})", caller, result);
  return result;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

Record make_record(const Change& change, const Zoo& zoo, const History& history, std::string_view content) {
  Record record;
  record.n = history.records.empty() ? 1 : history.records.back().n + 1;
  record.time = utc_now();
  record.user = user_name();
  record.host = host_name();
  record.action = change.action;
  record.from = zoo.active;
  record.to = change.to;
  record.reason = change.reason;
  record.probe = change.probe;
  record.error = change.error;
  record.zoo_sha256 = sha256(std::as_bytes(std::span(content)));
  record.restores = change.restores;
  return record;
}

/// Trying a model takes a while, in which the file may have changed.
void check_expected(const Change& change, const Zoo& zoo) {
  if (change.expected_from && *change.expected_from != zoo.active) {
    throw Error(ErrorCode::kMismatch, fmt::format("{}: '{}' became active meanwhile (it was '{}'); nothing was changed",
                                                  zoo.file.string(), zoo.active, *change.expected_from));
  }
  if (!change.expected_config.empty() && zoo.config(change.to) != change.expected_config) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{}: '{}' stands for another configuration than the one that was tried; nothing was "
                            "changed, try again",
                            zoo.file.string(), change.to));
  }
}

void record_failure(const fs::path& file, Change change, const std::string& why) {
  change.error = why;
  change.expected_from.reset();
  change.expected_config.clear();
  try {
    set_active(file, change);
  } catch (const Error& error) {
    warn(fmt::format("the failed attempt could not be recorded: {}", error.what()));
  }
}

/// Runs the probe of `change.to`. Error: why the model failed, once that is recorded.
void try_model(const Zoo& zoo, Change& change, const Probe& probe) {
  if (!probe) return;
  try {
    change.probe = probe(change.expected_config);
    check_interrupt();  // an answer that Ctrl-C cut short is no probe
  } catch (...) {
    const Error error = current_error();
    if (error.code() == ErrorCode::kInterrupted) throw error;
    // Neither the command line nor the zoo file is at fault.
    const bool config = error.code() == ErrorCode::kUsage || error.code() == ErrorCode::kConfig;
    const ErrorCode code = config ? ErrorCode::kMismatch : error.code();
    record_failure(zoo.file, change, error.what());
    throw Error(
        code, fmt::format("'{}' failed when it was tried, '{}' stays active: {}", change.to, zoo.active, error.what()));
  }
}

}  // namespace

Zoo read_zoo(const fs::path& file) {
  const fs::path real = behind_links(file);
  return parse_zoo(read_text(real), real);
}

std::optional<Record> set_active(const fs::path& file, const Change& change, const AfterStep& after) {
  const fs::path real = behind_links(file);
  HistoryFile history_file(real);
  const std::string text = read_text(real);
  const Zoo zoo = parse_zoo(text, real);
  const History history = history_file.read(zoo.active);
  const bool failed = !change.error.empty();
  check_expected(change, zoo);
  if (!failed && zoo.active == change.to) return std::nullopt;
  const std::string changed = failed ? text : with_active(text, real, change.to);
  Record record = make_record(change, zoo, history, changed);
  if (failed) {
    history_file.append(history, record);
    return record;
  }
  // On the disk before it is recorded, so that a full one ends this without a record.
  AtomicFile replacement(real);
  replacement.write(changed);
  replacement.flush();
  if (after) after(ChangeStep::kPrepared);
  history_file.append(history, record);
  if (after) after(ChangeStep::kRecorded);
  replacement.commit();
  if (after) after(ChangeStep::kReplaced);
  return record;
}

std::optional<Record> switch_model(const fs::path& file, const std::string& name, const std::string& reason,
                                   const Probe& probe) {
  const Zoo zoo = read_zoo(file);
  Change change{"switch", name, reason, {}, "", std::nullopt, std::nullopt, zoo.config(name)};
  if (name == zoo.active) return std::nullopt;
  read_history(history_path(zoo.file), zoo.active);  // damage is told before minutes of loading, not after them
  try_model(zoo, change, probe);
  return set_active(zoo.file, change);
}

std::optional<Record> roll_back(const fs::path& file, std::optional<std::int64_t> to, const std::string& reason,
                                const Probe& probe) {
  const Zoo zoo = read_zoo(file);
  const RollbackTarget target = rollback_target(read_history(history_path(zoo.file), zoo.active), zoo.active, to);
  Change change{"rollback", target.name, reason, {}, "", target.restores, zoo.active, zoo.config(target.name)};
  if (target.name == zoo.active) return std::nullopt;
  try_model(zoo, change, probe);
  return set_active(zoo.file, change);
}

}  // namespace vlmzoo::app
