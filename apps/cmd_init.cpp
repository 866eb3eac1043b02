#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "checkpoint_writer.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "output_folder.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/tokenizer.hpp"

namespace vlmzoo::app {
namespace {

struct InitOptions {
  std::string preset, config_json, tokenizer, output, model_type, preprocessor, generation;
  std::string dtype = "bf16", max_shard_size = "5GB";
  std::int64_t seed = 0;
  bool force = false, list_presets = false;

  void add_to(Options& options);
};

/// The JSON files of the new checkpoint; empty texts are not written.
struct Source {
  OrderedJson config;
  std::string preprocessor, generation;
  std::string model_type, where;
};

void InitOptions::add_to(Options& options) {
  options.add()("preset", po::value(&preset)->value_name("NAME"), "architecture of a released model")(
      "config-json", po::value(&config_json)->value_name("FILE"), "architecture from a config.json")(
      "tokenizer", po::value(&tokenizer)->value_name("FILE"),
      "tokenizer.json; it is copied, and the tokenizer_config.json beside it")(
      "output", po::value(&output)->value_name("DIR"), "checkpoint folder to create")(
      "dtype", po::value(&dtype)->value_name("TYPE"), "bf16 (default), fp16 or fp32")(
      "seed", po::value(&seed)->value_name("N"), "seed of the weights, 0 by default")(
      "max-shard-size", po::value(&max_shard_size)->value_name("SIZE"), "as in 200MB; 5GB by default")(
      "model-type", po::value(&model_type)->value_name("TYPE"), "default: the config.json's own")(
      "preprocessor", po::value(&preprocessor)->value_name("FILE"), "preprocessor_config.json to copy")(
      "generation", po::value(&generation)->value_name("FILE"), "generation_config.json to copy")(
      "force", po::bool_switch(&force), "replace the checkpoint in --output")(
      "list-presets", po::bool_switch(&list_presets), "list the presets of all plugins and end");
}

/// "5GB", "200 MiB", "1000": bytes.
std::uint64_t parse_size(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));
  for (char& c : unit) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  constexpr std::pair<const char*, double> kUnits[] = {
      {"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KIB", 1 << 10}, {"MIB", 1 << 20}, {"GIB", 1 << 30}};
  for (const auto& [name, factor] : kUnits) {
    if (error == std::errc() && unit == name && number * factor >= 1 && number * factor < 1e18) {
      return static_cast<std::uint64_t>(number * factor);
    }
  }
  throw Error(ErrorCode::kUsage, fmt::format("--max-shard-size is '{}'; expected something like 200MB or 5GB", text));
}

std::string list_presets(const Registry& registry) {
  Table table({"preset", "model type", "description"});
  for (const PluginInfo& plugin : registry.plugins()) {
    for (const Preset* preset = plugin.descriptor->presets; preset != nullptr && preset->name != nullptr; ++preset) {
      table.add({preset->name, plugin.model_types.front(), preset->description});
    }
  }
  return table.text();
}

Source source_of_preset(const Registry& registry, const InitOptions& init) {
  std::vector<std::string> names;
  std::optional<Source> result;
  for (const PluginInfo& plugin : registry.plugins()) {
    if (!init.model_type.empty() && &registry.find(init.model_type, "--model-type") != &plugin) continue;
    for (const Preset* preset = plugin.descriptor->presets; preset != nullptr && preset->name != nullptr; ++preset) {
      names.emplace_back(preset->name);
      if (names.back() != init.preset) continue;
      if (result) {
        throw Error(ErrorCode::kUsage, fmt::format("preset '{}' belongs to {} and {}; choose with --model-type",
                                                   init.preset, result->model_type, plugin.model_types.front()));
      }
      result = Source{parse_ordered(preset->config_json, "preset " + init.preset),
                      preset->preprocessor_json == nullptr ? "" : preset->preprocessor_json,
                      preset->generation_json == nullptr ? "" : preset->generation_json, plugin.model_types.front(),
                      "preset " + init.preset};
    }
  }
  if (result) return *result;
  throw Error(ErrorCode::kUsage,
              fmt::format("unknown preset '{}'; there are: {}", init.preset, fmt::join(names, ", ")));
}

Source source_of_file(const InitOptions& init) {
  Source result{parse_ordered(read_file(init.config_json), init.config_json), "", "", init.model_type, "--model-type"};
  if (result.model_type.empty()) {
    result.where = init.config_json;
    if (const auto found = result.config.find("model_type"); found != result.config.end() && found->is_string()) {
      result.model_type = found->get<std::string>();
    } else {
      throw Error(ErrorCode::kConfig,
                  fmt::format("{}: model_type is missing; name it with --model-type", init.config_json));
    }
  }
  return result;
}

Source read_source(const Registry& registry, const InitOptions& init) {
  if (init.preset.empty() == init.config_json.empty()) {
    throw Error(ErrorCode::kUsage, "give either --preset or --config-json");
  }
  Source result = init.preset.empty() ? source_of_file(init) : source_of_preset(registry, init);
  set_dtype(result.config, parse_dtype(init.dtype));
  const auto take = [](const std::string& file, std::string& text) {
    if (!file.empty()) text = to_text(parse_ordered(read_file(file), file));
  };
  take(init.preprocessor, result.preprocessor);
  take(init.generation, result.generation);
  return result;
}

void write_small_files(const Source& source, const std::filesystem::path& tokenizer,
                       const std::filesystem::path& folder) {
  write_file(folder / "config.json", to_text(source.config));
  if (!source.preprocessor.empty()) write_file(folder / "preprocessor_config.json", source.preprocessor);
  if (!source.generation.empty()) write_file(folder / "generation_config.json", source.generation);
  write_file(folder / "tokenizer.json", read_file(tokenizer));
  const std::filesystem::path beside = tokenizer.parent_path() / "tokenizer_config.json";
  if (std::filesystem::exists(beside)) write_file(folder / "tokenizer_config.json", read_file(beside));
}

/// Names, shapes and sizes of the model that the new folder describes. Messages name the folder as it will be called.
std::unique_ptr<Model> plan_model(const Registry& registry, const Source& source, const OutputFolder& folder,
                                  std::int64_t seed) {
  ModelConfig config;
  config.model_type = source.model_type;
  config.pretrained_path = folder.temporary().string();
  config.pretrained = false;
  config.seed = seed;
  config.device = "cpu";
  try {
    return registry.create_model(config, {.plan_only = true}, source.model_type, source.where);
  } catch (const Error& error) {
    std::string message = error.what();
    const std::string hidden = folder.temporary().string(), shown = folder.path().string();
    for (std::size_t at = 0; (at = message.find(hidden, at)) != std::string::npos; at += shown.size()) {
      message.replace(at, hidden.size(), shown);
    }
    throw Error(error.code(), message);
  }
}

/// Every id has to have a row in the embeddings: a table may be larger than the vocabulary that logits cover.
void check_tokenizer(const std::filesystem::path& file, const Model& model) {
  std::int64_t rows = model.info().vocab_size;
  for (const Parameter& parameter : model.parameters().list) {
    if (parameter.role == Role::kLanguage && !parameter.linear && parameter.shape.size() == 2) {
      rows = std::max(rows, parameter.shape.front());
    }
  }
  const std::int64_t ids = Tokenizer(file).size();
  if (ids > rows) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{}: the tokenizer has ids up to {}, but the model has embeddings for "
                            "{} tokens only; take the tokenizer of this model",
                            file.string(), ids - 1, rows));
  }
}

void write_checkpoint(const Registry& registry, const InitOptions& init) {
  const CheckpointFormat format{parse_dtype(init.dtype), parse_size(init.max_shard_size)};
  std::filesystem::path tokenizer = init.tokenizer;
  if (std::filesystem::is_directory(tokenizer)) tokenizer /= "tokenizer.json";
  const Source source = read_source(registry, init);
  registry.find(source.model_type, source.where);

  OutputFolder folder(init.output, init.force);
  write_small_files(source, tokenizer, folder.temporary());
  const auto model = plan_model(registry, source, folder, init.seed);
  check_tokenizer(tokenizer, *model);
  if (source.generation.empty()) {
    write_file(folder.temporary() / "generation_config.json", to_text({{"eos_token_id", model->info().stop_ids}}));
  }
  const auto formula = [&](const Parameter& parameter, std::uint64_t first, std::span<float> out) {
    fill_formula(parameter.name, parameter.shape, init.seed, first, out);
  };
  write_weights(model->parameters(), format, formula, "writing random weights", folder.temporary());
  folder.commit();

  std::int64_t count = 0;
  for (const Role role : kRoles) count += model->parameters().count(role);
  print(fmt::format("{}: {} with random weights (seed {}), {} parameters, {} in {}\n", init.output,
                    model->info().model_type, init.seed, grouped(count),
                    format_bytes(total_bytes(model->parameters(), format.dtype)), init.dtype));
}

}  // namespace

int run_init(Arguments arguments) {
  HostOptions host;
  ThreadOption threads;
  InitOptions init;
  Options options(
      {"init", "[options] (--preset NAME | --config-json FILE) --tokenizer FILE --output DIR",
       "Writes a checkpoint with random weights in the layout of the released ones. The values follow a fixed\n"
       "formula of tensor name and index, so that any language can make the same file.",
       "vlmzoo init --config-json config.json --tokenizer tokenizer.json --output checkpoint"});
  init.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  host.apply();
  threads.apply(options);

  const auto registry = [&] { return Registry(plugin_search_path(host.plugin_dirs)); };
  if (init.list_presets) {
    print(list_presets(registry()));
    return 0;
  }
  if (init.tokenizer.empty()) throw Error(ErrorCode::kUsage, "--tokenizer is missing");
  if (init.output.empty()) throw Error(ErrorCode::kUsage, "--output is missing");
  write_checkpoint(registry(), init);
  return 0;
}

}  // namespace vlmzoo::app
