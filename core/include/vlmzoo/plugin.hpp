#pragma once

#include <cstdint>

#include "vlmzoo/build_identity.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/model.hpp"

/// The plugin contract. A plugin is a shared library that exports one symbol, `vlmzoo_plugin`: a plain struct that the
/// host checks before it calls anything. Write it with VLMZOO_PLUGIN. A plugin registers nothing by itself, is opened
/// once with RTLD_NOW | RTLD_LOCAL and is never unloaded.
namespace vlmzoo {

/// Grows whenever Model, CreateOptions, ModelConfig or PluginDescriptor change their meaning or layout.
inline constexpr std::uint32_t kPluginAbiVersion = 2;

/// A configuration to start from without a checkpoint, for `init --preset`.
struct Preset {
  const char* name;
  const char* description;
  const char* config_json;
  const char* preprocessor_json;  ///< null: none
  const char* generation_json;    ///< null: none
};

struct PluginDescriptor {
  std::uint32_t abi_version;   ///< stays the first field in every version; all else is read only if it matches
  const char* build_identity;  ///< VLMZOO_BUILD_IDENTITY of the plugin's compilation
  const char* name;
  const char* version;
  const char* const* model_types;  ///< null-terminated, lower case; the first is canonical, the others are aliases
  const Preset* presets;           ///< ended by a null name; may be null
  /// Ownership passes to the caller. Throws Error.
  Model* (*create)(const ModelConfig& config, const CreateOptions& options);
};

inline constexpr const char* kPluginSymbol = "vlmzoo_plugin";

}  // namespace vlmzoo

/// At file scope of one source file: VLMZOO_PLUGIN("name", "1.0.0", kModelTypes, kPresets, create_function)
#define VLMZOO_PLUGIN(name, version, model_types, presets, create)         \
  extern "C" VLMZOO_API const ::vlmzoo::PluginDescriptor vlmzoo_plugin;    \
  extern "C" VLMZOO_API const ::vlmzoo::PluginDescriptor vlmzoo_plugin = { \
      ::vlmzoo::kPluginAbiVersion, VLMZOO_BUILD_IDENTITY, name, version, model_types, presets, create}
