#include <fmt/format.h>
#include <fmt/ranges.h>

#include "commands.hpp"
#include "output.hpp"
#include "session.hpp"
#include "table.hpp"

namespace vlmzoo::app {
namespace {

OrderedJson document(const Registry& registry) {
  OrderedJson plugins = OrderedJson::array(), refused = OrderedJson::array();
  for (const PluginInfo& plugin : registry.plugins()) {
    plugins.push_back({{"name", plugin.name},
                       {"version", plugin.version},
                       {"model_types", plugin.model_types},
                       {"file", plugin.file.string()}});
  }
  for (const RefusedPlugin& plugin : registry.refused()) {
    refused.push_back({{"file", plugin.file.string()}, {"reason", plugin.reason}, {"model_types", plugin.model_types}});
  }
  return {{"plugins", std::move(plugins)}, {"refused", std::move(refused)}};
}

std::string to_table(const Registry& registry) {
  Table accepted({"name", "version", "model types", "file"});
  for (const PluginInfo& plugin : registry.plugins()) {
    accepted.add(
        {plugin.name, plugin.version, fmt::format("{}", fmt::join(plugin.model_types, ", ")), plugin.file.string()});
  }
  std::string result = accepted.text();
  if (registry.refused().empty()) return result;
  Table refused({"refused", "reason"});
  for (const RefusedPlugin& plugin : registry.refused()) refused.add({plugin.file.string(), plugin.reason});
  return result + '\n' + refused.text();
}

}  // namespace

int run_plugins(Arguments arguments) {
  HostOptions host;
  bool json = false;
  Options options({"plugins", "[options]",
                   "Lists the model plugins that were found, and the refused ones with the reason.",
                   "vlmzoo plugins --plugin-dir build/release/lib/vlmzoo/plugins"});
  options.add()("json", po::bool_switch(&json), "print JSON");
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  host.apply();

  const Registry registry(plugin_search_path(host.plugin_dirs), /*warn_refused=*/false);
  if (json) {
    print_json(document(registry));
  } else {
    print(to_table(registry));
  }
  return 0;
}

}  // namespace vlmzoo::app
