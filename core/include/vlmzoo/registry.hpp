#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/model.hpp"
#include "vlmzoo/plugin.hpp"

namespace vlmzoo {

/// A plugin that was accepted.
struct PluginInfo {
  std::string name, version;
  std::vector<std::string> model_types;  ///< the first is canonical
  std::filesystem::path file;
  const PluginDescriptor* descriptor = nullptr;
};

/// A file in a search folder that was not, and why.
struct RefusedPlugin {
  std::filesystem::path file;
  std::string reason;
  std::vector<std::string> model_types;  ///< it would have served, where that could be known
};

/// Opens one plugin file and checks its descriptor; the library stays loaded for the life of the process. Checked in
/// this order, each with its own message: a regular file, not writable for everyone (nor its folder), a whole ELF
/// library for this machine, loadable, has the symbol, abi_version, build identity, names and types well formed. Error:
/// kPlugin.
VLMZOO_API PluginInfo open_plugin(const std::filesystem::path& file);

/// Folders that are searched, in order: `first` (--plugin-dir), VLMZOO_PLUGIN_PATH (':' between),
/// <exe>/../lib/vlmzoo/plugins. Never the working directory. A folder in `first` or the environment that doesn't exist
/// is an error (kNotFound).
VLMZOO_API std::vector<std::filesystem::path> plugin_search_path(std::span<const std::string> first = {});

/// Plugins by model_type. Looking a type up never builds a path from it.
class VLMZOO_API Registry {
 public:
  /// Opens every `*.so` directly inside `folders` (sorted by name; the same file found twice counts once). What can't
  /// be used is kept in refused() and warned about when `warn_refused`. Two plugins with one model_type: Error kPlugin
  /// naming both files.
  explicit Registry(std::span<const std::filesystem::path> folders, bool warn_refused = true);

  const std::vector<PluginInfo>& plugins() const { return plugins_; }
  const std::vector<RefusedPlugin>& refused() const { return refused_; }

  /// Case does not matter. Error: kUnsupported, "Unsupported model type: X (where it was said); available: …", and the
  /// reason of a refused plugin that would have served it.
  const PluginInfo& find(const std::string& model_type, const std::string& where = "") const;

  /// The model of `config`; `model_type`, when not empty, wins over the config's; neither: kDefaultModelType. An
  /// exception of the plugin that is no Error becomes one (kPlugin) naming the plugin.
  std::unique_ptr<Model> create_model(const ModelConfig& config, const CreateOptions& options = {},
                                      const std::string& model_type = "", const std::string& where = "") const;

 private:
  void add(const std::filesystem::path& file, bool warn_refused);

  std::vector<std::filesystem::path> folders_;  // for messages
  std::vector<PluginInfo> plugins_;
  std::vector<RefusedPlugin> refused_;
  std::map<std::string, std::size_t> index_;
};

}  // namespace vlmzoo
