#include "zoo/change_options.hpp"

#include <fmt/format.h>

#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"
#include "zoo/probe.hpp"

namespace vlmzoo::app {

void ChangeOptions::add_to(Options& options) {
  options.add()("zoo", po::value(&zoo)->value_name("FILE"), "zoo file to change")(
      "reason", po::value(&reason)->value_name("TEXT"), "why, for the history")(
      "no-probe", po::bool_switch(&no_probe), "don't load and try the model first")("json", po::bool_switch(&json),
                                                                                    "print JSON");
  threads.add_to(options);
  host.add_to(options);
}

void ChangeOptions::apply(const Options& options) const {
  if (zoo.empty()) throw Error(ErrorCode::kUsage, "--zoo is missing");
  require_utf8("reason", reason);
  host.apply();
  threads.apply(options);
}

Probe ChangeOptions::probe() const {
  if (no_probe) return {};
  return [this](const std::filesystem::path& config) {
    const ProbeResult result = app::probe(Session(host, config));
    if (!result.head_trained) {
      warn(fmt::format("{}: the classification head is freshly initialised (untrained): its classes mean nothing",
                       config.string()));
    }
    return to_json(result);
  };
}

void ChangeOptions::show(const std::optional<Record>& record, const std::string& active) const {
  if (json) {
    OrderedJson document = {{"changed", record.has_value()}, {"active", active}};
    document["record"] = record ? to_json(*record, RecordStatus::kCompleted) : OrderedJson();
    print_json(document);
  } else if (record) {
    print(fmt::format("{}: {} -> {} (record {})\n", zoo, record->from, record->to, record->n));
  } else {
    print(fmt::format("{}: {} is active already; nothing was changed\n", zoo, active));
  }
}

}  // namespace vlmzoo::app
