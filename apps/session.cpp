#include "session.hpp"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <utility>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::int64_t kMostThreads = 1024;

/// Physical cores among the processors that this process may run on; 0 where the kernel doesn't tell.
int physical_cores() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
    std::string siblings;
    if (std::getline(file, siblings)) cores.insert(siblings);
  }
  return static_cast<int>(cores.size());
}

/// More threads than the container's quota would be stopped in turn, each time at a barrier of the others.
int useful_threads() {
  const int cores = physical_cores();
  const double quota = std::ceil(processor_quota());
  return cores > 0 && quota < cores ? std::max(1, static_cast<int>(quota)) : cores;
}

Config read_config(const ModelOptions& model, const Options& options, const std::vector<std::string>& overrides) {
  std::vector<std::string> all = model.overrides(options);
  all.insert(all.end(), overrides.begin(), overrides.end());
  const std::filesystem::path file = model.config_file(options);
  return file.empty() ? default_config(all) : load_config(file, all);
}

std::string origin(const Config& config, const std::string& key) {
  const auto found = config.origins.find(key);
  return found == config.origins.end() ? "" : found->second;
}

}  // namespace

void HostOptions::add_to(Options& options) {
  options.add()("plugin-dir", po::value(&plugin_dirs)->value_name("DIR"),
                "folder to look for plugins in, before the usual ones (repeatable)")(
      "quiet", po::bool_switch(&quiet), "only errors on stderr")("verbose", po::bool_switch(&verbose),
                                                                 "more about what happens on stderr");
}

void HostOptions::apply() const {
  if (quiet && verbose) throw Error(ErrorCode::kUsage, "--quiet and --verbose exclude each other");
  if (quiet) set_log_level(LogLevel::kQuiet);
  if (verbose) set_log_level(LogLevel::kDebug);
}

void ModelOptions::add_to(Options& options) {
  options.add()("config", po::value(&config)->value_name("FILE"), "configuration in YAML")(
      "zoo", po::value(&zoo)->value_name("FILE"), "zoo file: the configuration that is active there")(
      "zoo-name", po::value(&zoo_name)->value_name("NAME"), "this model of the zoo file instead of the active one")(
      "set", po::value(&settings)->value_name("KEY=VALUE"),
      "override of one key of the configuration, as in model.max_tiles=1 (repeatable)")(
      "model", po::value(&model)->value_name("FOLDER|NAME"),
      "checkpoint folder, or org/name in the local hub cache: short for --set model.pretrained_path=…")(
      "model-type", po::value(&model_type)->value_name("TYPE"), "short for --set model.model_type=…")(
      "precision", po::value(&precision)->value_name("P"), "auto, fp32, bf16, fp16 or int8")(
      "device", po::value(&device)->value_name("DEVICE"), "auto, cpu, cuda or cuda:N");
}

std::vector<std::string> ModelOptions::overrides(const Options& options) const {
  std::vector<std::string> result = settings;
  const auto add = [&](const char* option, const char* key, const std::string& value) {
    require_utf8(option, value);
    if (options.given(option)) result.push_back(fmt::format("{}={}", key, quoted(value)));
  };
  for (const std::string& setting : settings) require_utf8("set", setting);
  add("model", "model.pretrained_path", model);
  add("model-type", "model.model_type", model_type);
  add("precision", "model.precision", precision);
  add("device", "model.device", device);
  return result;
}

std::filesystem::path ModelOptions::config_file(const Options& options) const {
  const bool both = options.given("config") && options.given("zoo");
  if (both && options.typed("config") == options.typed("zoo")) {
    throw Error(ErrorCode::kUsage,
                "--config and --zoo exclude each other: one names a configuration, the other a file "
                "that says which one is active");
  }
  const bool from_zoo = options.given("zoo") && (!both || options.typed("zoo"));
  if (!from_zoo) {
    if (options.typed("zoo-name")) throw Error(ErrorCode::kUsage, "--zoo-name chooses among the models of --zoo FILE");
    return config;
  }
  const Zoo read = read_zoo(zoo);
  const std::string& name = options.given("zoo-name") ? zoo_name : read.active;
  debug(fmt::format("{}: {}", zoo, name));
  return read.config(name);
}

void ThreadOption::add_to(Options& options) {
  options.add()("threads", po::value(&threads)->value_name("N"),
                "default: OMP_NUM_THREADS, else the physical cores within the cgroup's quota");
}

void ThreadOption::apply(const Options& options) const {
  if (options.given("threads")) {
    require_range("threads", threads, 1, kMostThreads);
    at::set_num_threads(static_cast<int>(threads));
  } else if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    if (const int threads_here = useful_threads(); threads_here > 0) at::set_num_threads(threads_here);
  }
}

void GenerationOptions::add_to(Options& options) {
  options.add()("max-new-tokens", po::value(&max_new_tokens)->value_name("N"), "longest answer, in tokens")(
      "temperature", po::value(&temperature)->value_name("T"), "0: greedy")(
      "top-k", po::value(&top_k)->value_name("K"), "sample from the K likeliest tokens; 0: off")(
      "top-p", po::value(&top_p)->value_name("P"), "sample from the likeliest tokens that make up P; 1: off")(
      "repetition-penalty", po::value(&repetition_penalty)->value_name("R"), "1: off")(
      "seed", po::value(&seed)->value_name("N"), "seed of sampling")("stop", po::value(&stop)->value_name("TEXT"),
                                                                     "text that ends the answer (repeatable)");
  options.synonym("--max-tokens", "max-new-tokens");
}

std::vector<std::string> GenerationOptions::overrides(const Options& options) const {
  std::vector<std::string> result;
  const auto add = [&](const char* option, const char* key, const auto& value) {
    if (options.given(option)) result.push_back(fmt::format("generation.{}={}", key, value));
  };
  add("max-new-tokens", "max_new_tokens", max_new_tokens);
  add("temperature", "temperature", temperature);
  add("top-k", "top_k", top_k);
  add("top-p", "top_p", top_p);
  add("repetition-penalty", "repetition_penalty", repetition_penalty);
  add("seed", "seed", seed);
  if (!stop.empty()) {
    std::string list;
    for (const std::string& text : stop) {
      require_utf8("stop", text);
      list += (list.empty() ? "" : ", ") + quoted(text);
    }
    result.push_back("generation.stop=[" + list + "]");
  }
  return result;
}

// A JSON string is a YAML scalar as long as it isn't escaped down to ASCII: YAML knows no surrogate pairs.
std::string quoted(const std::string& text) { return OrderedJson(text).dump(-1, ' ', /*ensure_ascii=*/false); }

Session::Session(const HostOptions& host, const ModelOptions& model, const Options& options,
                 const std::vector<std::string>& overrides)
    : Session(host, read_config(model, options, overrides)) {}

Session::Session(const HostOptions& host, const std::filesystem::path& config,
                 const std::vector<std::string>& overrides)
    : Session(host, load_config(config, overrides)) {}

Session::Session(const HostOptions& host, Config config)
    : config_(std::move(config)),
      where_(origin(config_, "model.model_type")),
      registry_(plugin_search_path(host.plugin_dirs)) {
  plugin();  // an unknown model_type is said before anything else
  if (config_.model.pretrained_path.empty()) {
    throw Error(ErrorCode::kUsage,
                "no model is named; give --config FILE, --zoo FILE, --model FOLDER or --set "
                "model.pretrained_path=FOLDER");
  }
}

std::unique_ptr<Model> Session::create(const CreateOptions& options, const ModelConfig& config) const {
  if (options.roles.language && !options.plan_only && !config.multimodal) {
    throw Error(
        ErrorCode::kConfig,
        fmt::format("{}model.multimodal is false, so the language model isn't loaded; this "
                    "needs it",
                    origin(config_, "model.multimodal").empty() ? "" : origin(config_, "model.multimodal") + ": "));
  }
  if (!options.plan_only && !config.pretrained) {
    warn(fmt::format("model.pretrained is false: the weights are random (seed {})", config.seed));
  }
  return registry_.create_model(config, options, config.model_type, where_);
}

RolePrecision Session::precision() const {
  return resolve_precision(config_.model, resolve_device(config_.model.device));
}

OrderedJson to_json(const RolePrecision& precision) {
  return {{"vision", to_string(precision.vision)},
          {"connector", to_string(precision.connector)},
          {"language", to_string(precision.language)}};
}

std::string describe(const RolePrecision& precision) {
  if (precision.vision == precision.connector && precision.vision == precision.language) {
    return to_string(precision.vision);
  }
  return fmt::format("vision {}, connector {}, language {}", to_string(precision.vision),
                     to_string(precision.connector), to_string(precision.language));
}

}  // namespace vlmzoo::app
