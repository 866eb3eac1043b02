#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "options.hpp"
#include "output.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/registry.hpp"

namespace vlmzoo::app {

/// Options of every verb.
struct HostOptions {
  std::vector<std::string> plugin_dirs;
  bool quiet = false, verbose = false;

  void add_to(Options& options);
  /// Sets what reaches stderr. Error: kUsage.
  void apply() const;
};

/// Options of verbs that read a configuration: --config FILE, or --zoo FILE for the model that is active there.
struct ModelOptions {
  std::string config, zoo, zoo_name, model, model_type, precision, device;
  std::vector<std::string> settings;

  void add_to(Options& options);
  /// Those that change keys of the configuration, for load_config(). Error: kUsage.
  std::vector<std::string> overrides(const Options& options) const;
  /// The configuration that they name; empty for none. What the command line says wins over the environment. Errors:
  /// kUsage for a configuration and a zoo file at once, those of read_zoo().
  std::filesystem::path config_file(const Options& options) const;
};

/// `--threads`, of verbs that compute.
struct ThreadOption {
  std::int64_t threads = 0;

  void add_to(Options& options);
  /// Sets LibTorch's threads: as asked for, else OMP_NUM_THREADS, else one per physical core. Error: kUsage.
  void apply(const Options& options) const;
};

/// Options that override `generation` of the configuration.
struct GenerationOptions {
  std::int64_t max_new_tokens = 0, top_k = 0, seed = 0;
  double temperature = 0, top_p = 0, repetition_penalty = 0;
  std::vector<std::string> stop;

  void add_to(Options& options);
  /// Those that were given, as overrides for load_config(). Error: kUsage.
  std::vector<std::string> overrides(const Options& options) const;
};

/// `text` as a YAML scalar that reads back as itself: for the value of an override.
std::string quoted(const std::string& text);

/// A configuration and the plugins to serve it.
class Session {
 public:
  /// `overrides` win over `--set`. Errors: kUsage when no model is named, those of load_config() and Registry.
  Session(const HostOptions& host, const ModelOptions& model, const Options& options,
          const std::vector<std::string>& overrides = {});
  /// The same of one configuration file, whatever the options name.
  Session(const HostOptions& host, const std::filesystem::path& config, const std::vector<std::string>& overrides = {});

  const Config& config() const { return config_; }
  const Registry& registry() const { return registry_; }
  const PluginInfo& plugin() const { return registry_.find(config_.model.model_type, where_); }

  /// The configured model. Error: kConfig for `options` with the language model when `model.multimodal` is false.
  std::unique_ptr<Model> create(const CreateOptions& options) const { return create(options, config_.model); }
  /// The same with some keys changed.
  std::unique_ptr<Model> create(const CreateOptions& options, const ModelConfig& config) const;
  /// Precision of each role on this machine.
  RolePrecision precision() const;

 private:
  Session(const HostOptions& host, Config config);

  Config config_;
  std::string where_;  // what said model_type, for messages
  Registry registry_;
};

/// {"vision": "fp32", "connector": …, "language": …}
OrderedJson to_json(const RolePrecision& precision);
/// "fp32", or "vision fp32, connector fp32, language int8".
std::string describe(const RolePrecision& precision);

}  // namespace vlmzoo::app
