#include <fmt/format.h>

#include "commands.hpp"
#include "output.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {
namespace {

OrderedJson document(const Zoo& zoo, const History& history) {
  OrderedJson records = OrderedJson::array();
  for (std::size_t i = 0; i < history.records.size(); ++i) {
    records.push_back(to_json(history.records[i], history.status[i]));
  }
  return {{"zoo", zoo.file.string()}, {"active", zoo.active}, {"records", std::move(records)}};
}

/// "one 0.43, 812 ms", or why the attempt failed.
std::string describe_probe(const Record& record) {
  if (!record.error.empty()) {
    std::size_t end = 80;
    if (record.error.size() <= end) return record.error;
    while (end > 0 && (static_cast<unsigned char>(record.error[end]) & 0xC0) == 0x80) --end;  // between characters
    return record.error.substr(0, end) + " [...]";
  }
  if (!record.probe.is_object()) return "not tried";
  try {
    return fmt::format("{} {:.2f}, {:.0f} ms", record.probe.value("label", ""), record.probe.value("probability", 0.0),
                       record.probe.value("latency_ms", 0.0));
  } catch (const OrderedJson::exception&) {
    return "";  // someone else's record
  }
}

std::string to_table(const Zoo& zoo, const History& history) {
  Table table({">n", "time", "who", "action", "from", "to", "status", "probe", "reason"});
  for (std::size_t i = 0; i < history.records.size(); ++i) {
    const Record& record = history.records[i];
    table.add({std::to_string(record.n), record.time, fmt::format("{}@{}", record.user, record.host), record.action,
               record.from, record.to, to_string(history.status[i]), describe_probe(record), record.reason});
  }
  return fmt::format("{}active: {}\n", history.records.empty() ? "no switch is recorded\n" : table.text(),
                     harmless(zoo.active));
}

}  // namespace

int run_history(Arguments arguments) {
  HostOptions host;
  std::string file;
  bool json = false;
  Options options({"history", "[options] --zoo FILE",
                   "Lists the switches and rollbacks of a zoo file, failed attempts and those that a crash ended too.",
                   "vlmzoo history --zoo zoo.yaml --json"});
  options.add()("zoo", po::value(&file)->value_name("FILE"), "zoo file")("json", po::bool_switch(&json), "print JSON");
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (file.empty()) throw Error(ErrorCode::kUsage, "--zoo is missing");
  host.apply();

  const Zoo zoo = read_zoo(file);
  const History history = read_history(history_path(zoo.file), zoo.active);
  if (json) {
    print_json(document(zoo, history));
  } else {
    print(to_table(zoo, history));
  }
  if (history.torn.empty()) return 0;
  complain(history.torn_message());
  return 1;
}

}  // namespace vlmzoo::app
