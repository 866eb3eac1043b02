#include "zoo/history.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_at(const fs::path& file, std::size_t line, const std::string& why) {
  throw Error(ErrorCode::kCorrupt,
              fmt::format("{}:{}: not a record of the history ({}); correct or delete this line, or move the file away "
                          "to begin a new history",
                          file.string(), line, why));
}

Record read_record(const OrderedJson& json) {
  const auto text = [&](const char* key) { return json.value(key, std::string()); };
  Record record;
  record.n = json.at("n").get<std::int64_t>();
  record.time = json.at("time").get<std::string>();
  record.user = text("user");
  record.host = text("host");
  record.action = json.at("action").get<std::string>();
  record.from = json.at("from").get<std::string>();
  record.to = json.at("to").get<std::string>();
  record.reason = text("reason");
  record.probe = json.value("probe", OrderedJson());
  record.error = text("error");
  record.zoo_sha256 = text("zoo_sha256");
  if (json.contains("restores")) record.restores = json.at("restores").get<std::int64_t>();
  return record;
}

/// Why `record` can't follow `before`; empty when it can.
std::string fault_of(const Record& record, const std::vector<Record>& before) {
  const std::int64_t last = before.empty() ? 0 : before.back().n;
  if (record.n <= last) return fmt::format("n is {}, expected more than {}", record.n, last);
  if (record.action != "switch" && record.action != "rollback") {
    return fmt::format("action is '{}', expected switch or rollback", record.action);
  }
  if (record.restores && (*record.restores < 0 || *record.restores >= record.n)) {
    return fmt::format("restores is {}, expected 0 to {}", *record.restores, record.n - 1);
  }
  return "";
}

/// False for what is no JSON.
bool is_json(std::string_view line, const std::string& where) {
  try {
    parse_json(line, where);  // refuses depth, and keys that come twice
    return true;
  } catch (const Error&) {
    return false;
  }
}

void add_record(History& history, std::string_view line, std::size_t number) {
  try {
    const Record record = read_record(OrderedJson::parse(line));
    if (const std::string fault = fault_of(record, history.records); !fault.empty()) {
      fail_at(history.file, number, fault);
    }
    history.records.push_back(record);
  } catch (const OrderedJson::exception& error) {
    fail_at(history.file, number, error.what());
  }
}

/// A record took effect when the next one found its model active; the last one, when it is active now.
void settle_status(History& history, const std::string& active) {
  history.status.assign(history.records.size(), RecordStatus::kFailed);
  std::string found = active;
  for (std::size_t i = history.records.size(); i-- > 0;) {
    const Record& record = history.records[i];
    if (record.error.empty()) {
      history.status[i] = record.to == found ? RecordStatus::kCompleted : RecordStatus::kNotCompleted;
    }
    found = record.from;
  }
}

std::string name_after(const History& history, const std::string& active, std::int64_t n) {
  for (std::size_t i = 0; i < history.records.size(); ++i) {
    const Record& record = history.records[i];
    if (n == 0) return record.from;
    if (record.n != n) continue;
    if (history.status[i] != RecordStatus::kNotCompleted) {
      return history.status[i] == RecordStatus::kCompleted ? record.to : record.from;
    }
    const std::string& found = i + 1 < history.records.size() ? history.records[i + 1].from : active;
    if (found == record.from) return record.from;
    throw Error(ErrorCode::kMismatch,
                fmt::format("{}: after record {} the zoo file was changed by hand (from '{}' or '{}' to '{}'), so that "
                            "what was active then is not known; name the model with switch",
                            history.file.string(), n, record.from, record.to, found));
  }
  throw Error(ErrorCode::kNotFound,
              history.records.empty()
                  ? fmt::format("{}: there is no record {}; the history is empty", history.file.string(), n)
                  : fmt::format("{}: there is no record {}; they go from {} to {}, and 0 stands for the time before",
                                history.file.string(), n, history.records.front().n, history.records.back().n));
}

}  // namespace

std::string to_string(RecordStatus status) {
  switch (status) {
    case RecordStatus::kCompleted:
      return "completed";
    case RecordStatus::kNotCompleted:
      return "not_completed";
    case RecordStatus::kFailed:
      return "failed";
  }
  return "";
}

std::string History::torn_message() const {
  if (torn.empty()) return "";
  return fmt::format(
      "{}:{}: the last line is incomplete, as a crash leaves it; what it was to record did not take effect. The next "
      "switch or rollback removes it, or delete the line",
      file.string(), records.size() + 1);
}

fs::path history_path(const fs::path& zoo_file) { return zoo_file.string() + ".history.jsonl"; }

History parse_history(std::string_view text, const fs::path& file, const std::string& active) {
  History history;
  history.file = file;
  std::size_t line = 0;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const bool open = end == std::string_view::npos;
    const std::string_view content = text.substr(0, end);
    text.remove_prefix(open ? text.size() : end + 1);
    ++line;
    if (!is_json(content, file.string())) {
      if (!open) fail_at(file, line, "not valid JSON");
      history.torn = content;  // a record is written with its newline last: a crash's doing
      break;
    }
    add_record(history, content, line);
    history.whole_bytes += content.size() + (open ? 0 : 1);
    history.ends_open = open;
  }
  settle_status(history, active);
  return history;
}

History read_history(const fs::path& file, const std::string& active) {
  std::error_code error;
  const bool missing = fs::symlink_status(file, error).type() == fs::file_type::not_found;
  return parse_history(missing ? "" : read_file(file), file, active);
}

OrderedJson to_json(const Record& record, RecordStatus status) {
  OrderedJson json = OrderedJson::parse(to_line(record));
  json["status"] = to_string(status);
  return json;
}

std::string to_line(const Record& record) {
  OrderedJson json = {{"n", record.n},           {"time", record.time},
                      {"user", record.user},     {"host", record.host},
                      {"action", record.action}, {"from", record.from},
                      {"to", record.to},         {"reason", record.reason},
                      {"probe", record.probe},   {"zoo_sha256", record.zoo_sha256}};
  if (record.restores) json["restores"] = *record.restores;
  if (!record.error.empty()) json["error"] = record.error;
  return json.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace) + '\n';
}

RollbackTarget rollback_target(const History& history, const std::string& active, std::optional<std::int64_t> to) {
  if (to) return {name_after(history, active, *to), *to};
  // The switch that made the model of each completed record active, 0 for the one before all: a rollback's is that of
  // the record it restored, so that going back twice goes back two switches.
  std::map<std::int64_t, std::int64_t> made_by = {{0, 0}}, before;
  const Record* last = nullptr;
  std::map<std::int64_t, const Record*> by_number;
  for (std::size_t i = 0; i < history.records.size(); ++i) {
    const Record& record = history.records[i];
    if (history.status[i] != RecordStatus::kCompleted) continue;
    by_number[record.n] = &record;
    before[record.n] = last == nullptr ? 0 : last->n;
    const auto restored = record.restores ? made_by.find(*record.restores) : made_by.end();
    made_by[record.n] = restored == made_by.end() ? record.n : restored->second;
    last = &record;
  }
  if (last == nullptr || made_by[last->n] == 0) {
    throw Error(
        ErrorCode::kNotFound,
        fmt::format("nothing to roll back to: {} holds no completed switch{}", history.file.string(),
                    last == nullptr ? "" : " that isn't rolled back already; 'rollback --to N' goes to any record"));
  }
  if (last->to != active) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("'{}' became active by another way than a switch (the last one, record {}, led to '{}'); "
                            "choose with 'rollback --to N' or 'switch NAME'",
                            active, last->n, last->to));
  }
  const std::int64_t origin = made_by[last->n];
  return {by_number[origin]->from, before[origin]};
}

}  // namespace vlmzoo::app
