#include "vlmzoo/registry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kRefusedShown = 3;

std::string folded(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

/// The `*.so` entries of a folder, sorted; none when it doesn't exist, as the default folder may not.
std::vector<fs::path> candidates(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (entry->path().extension() == ".so") files.push_back(entry->path());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot list the plugin folder: {}", folder.string(), error.message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string available(const std::vector<PluginInfo>& plugins, const std::vector<fs::path>& folders) {
  std::vector<std::string> rows;
  for (const PluginInfo& plugin : plugins) {
    std::string row = plugin.model_types.front();
    for (std::size_t i = 1; i < plugin.model_types.size(); ++i) {
      row += (i == 1 ? " (" : ", ") + plugin.model_types[i];
    }
    rows.push_back(plugin.model_types.size() > 1 ? row + ")" : row);
  }
  std::sort(rows.begin(), rows.end());
  if (!rows.empty()) return fmt::format("{}", fmt::join(rows, ", "));
  for (const fs::path& folder : folders) rows.push_back(folder.string());
  return rows.empty() ? "none" : fmt::format("none (no plugin in {})", fmt::join(rows, ", "));
}

std::string refusals(const std::vector<RefusedPlugin>& refused) {
  if (refused.empty()) return "";
  std::string text =
      fmt::format("; {} plugin file{} refused: ", refused.size(), refused.size() == 1 ? " was" : "s were");
  for (std::size_t i = 0; i < std::min(refused.size(), kRefusedShown); ++i) {
    text += fmt::format("{}{}: {}", i == 0 ? "" : "; ", refused[i].file.string(), refused[i].reason);
  }
  return refused.size() > kRefusedShown ? fmt::format("{}; and {} more", text, refused.size() - kRefusedShown) : text;
}

/// The message of open_plugin without the file's name, which RefusedPlugin holds already.
std::string reason_alone(const Error& error, const fs::path& file) {
  const std::string message = error.what(), prefix = file.string() + ": ";
  return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
}

/// Runs the plugin's `create`; whatever it throws leaves as Error.
Model* call_create(const PluginInfo& plugin, const ModelConfig& config, const CreateOptions& options) {
  const std::string who = fmt::format("plugin {} ({})", plugin.name, plugin.file.string());
  try {
    return plugin.descriptor->create(config, options);
  } catch (const Error&) {
    throw;
  } catch (...) {
    const Error error = current_error();
    throw Error(error.code() == ErrorCode::kInternal ? ErrorCode::kPlugin : error.code(),
                fmt::format("{} failed: {}", who, error.what()));
  }
}

}  // namespace

Registry::Registry(std::span<const fs::path> folders, bool warn_refused) : folders_(folders.begin(), folders.end()) {
  std::set<fs::path> seen;
  for (const fs::path& folder : folders) {
    for (const fs::path& file : candidates(folder)) {
      std::error_code error;
      const fs::path real = fs::canonical(file, error);
      if (!seen.insert(error ? file : real).second) continue;
      add(file, warn_refused);
    }
  }
}

void Registry::add(const fs::path& file, bool warn_refused) {
  PluginInfo plugin;
  try {
    plugin = open_plugin(file);
  } catch (const Error& error) {
    if (warn_refused) warn(fmt::format("plugin not used: {}", error.what()));
    refused_.push_back({file, reason_alone(error, file), {}});
    return;
  }
  for (const PluginInfo& other : plugins_) {
    if (other.descriptor == plugin.descriptor) return;  // a hard link to a file that is loaded
  }
  for (const std::string& type : plugin.model_types) {
    const auto [entry, fresh] = index_.emplace(type, plugins_.size());
    if (fresh) continue;
    throw Error(
        ErrorCode::kPlugin,
        fmt::format("Two plugins serve the model type '{}': {} and {}; remove one of them or leave its folder out",
                    type, plugins_[entry->second].file.string(), plugin.file.string()));
  }
  plugins_.push_back(std::move(plugin));
}

const PluginInfo& Registry::find(const std::string& model_type, const std::string& where) const {
  const auto found = index_.find(folded(model_type));
  if (found != index_.end()) return plugins_[found->second];

  std::vector<std::string> types;
  for (const auto& [type, plugin] : index_) types.push_back(type);
  const std::string near = nearest(model_type, types);
  throw Error(ErrorCode::kUnsupported,
              fmt::format("Unsupported model type: {}{}; available: {}{}{}", shortened(model_type),
                          where.empty() ? "" : fmt::format(" ({})", where), available(plugins_, folders_),
                          near.empty() ? "" : fmt::format("; did you mean '{}'?", near), refusals(refused_)));
}

std::unique_ptr<Model> Registry::create_model(const ModelConfig& config, const CreateOptions& options,
                                              const std::string& model_type, const std::string& where) const {
  const bool named = !model_type.empty() || !config.model_type.empty();
  const PluginInfo& plugin = named ? find(model_type.empty() ? config.model_type : model_type, where)
                                   : find(kDefaultModelType, where.empty() ? "the default" : where);
  ModelConfig resolved = config;
  resolved.model_type = plugin.model_types.front();
  std::unique_ptr<Model> model(call_create(plugin, resolved, options));
  if (!model) {
    throw Error(ErrorCode::kPlugin, fmt::format("plugin {} ({}) created no model for '{}'", plugin.name,
                                                plugin.file.string(), resolved.model_type));
  }
  return model;
}

}  // namespace vlmzoo
