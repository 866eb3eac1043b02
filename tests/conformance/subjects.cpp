#include "subjects.hpp"

#include <algorithm>
#include <map>
#include <numeric>

#include "vlmzoo/error.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo::conformance {

namespace fs = std::filesystem;

namespace {

std::vector<fs::path>& named_plugin_dirs() {
  static std::vector<fs::path> folders;
  return folders;
}

std::vector<fs::path>& named_configs() {
  static std::vector<fs::path> folders;
  return folders;
}

/// A picture without structure that resizing could hide: waves of several lengths.
Image picture(std::int64_t width, std::int64_t height) {
  Image image{width, height, {}};
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (const std::int64_t value : {7 * x + 3 * y, x * y / 5, 2 * x * x / (y + 1)})
        image.pixels.push_back(static_cast<std::uint8_t>(value % 256));
    }
  }
  return image;
}

std::vector<Subject> named_subjects() {
  std::vector<Subject> result;
  for (const fs::path& folder : named_configs()) {
    const Json json = read_json(folder / "config.json");
    const PluginInfo& plugin = registry().find(JsonView(json, (folder / "config.json").string()).text("model_type"));
    result.push_back({folder.string(), plugin.name, plugin.model_types.front(), folder});
  }
  return result;
}

/// Every tests/data/<plugin>/<case> with a config.json, sorted.
std::vector<Subject> subjects_of(const PluginInfo& plugin) {
  std::vector<Subject> result;
  const fs::path folder = fs::path(VLMZOO_TEST_DATA) / "data" / plugin.name;
  if (!fs::is_directory(folder)) return result;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const std::string name = plugin.name + "/" + entry.path().filename().string();
    result.push_back({name, plugin.name, plugin.model_types.front(), entry.path()});
  }
  std::ranges::sort(result, {}, &Subject::name);
  return result;
}

}  // namespace

void read_arguments(int count, const char* const* arguments) {
  for (int i = 1; i < count; ++i) {
    const std::string option = arguments[i];
    if (option != "--plugin-dir" && option != "--config") continue;  // one of doctest's
    if (++i == count) throw Error(ErrorCode::kUsage, option + " needs a folder behind it");
    (option == "--config" ? named_configs() : named_plugin_dirs()).push_back(fs::canonical(arguments[i]));
  }
}

const Registry& registry() {
  if (named_plugin_dirs().empty()) return test::registry();
  static const Registry instance(named_plugin_dirs());
  return instance;
}

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> all = [] {
    if (!named_configs().empty()) return named_subjects();
    std::vector<Subject> result;
    for (const PluginInfo& plugin : registry().plugins())
      std::ranges::copy(subjects_of(plugin), std::back_inserter(result));
    return result;
  }();
  return all;
}

const fs::path& checkpoint(const Subject& subject) {
  static std::map<std::string, fs::path> made;
  if (const auto found = made.find(subject.name); found != made.end()) return found->second;
  const fs::path folder =
      fs::path(VLMZOO_BUILD) / "tests" / "checkpoints" / "conformance_test" / subject.plugin / subject.data.filename();
  std::string options = "--model-type " + subject.model_type;
  for (const fs::path& plugins : named_plugin_dirs()) options += " --plugin-dir '" + plugins.string() + "'";
  test::make_checkpoint(subject.data, folder, kSeed, "fp32", options);
  return made.emplace(subject.name, folder).first->second;
}

ModelConfig config_of(const Subject& subject, std::int64_t seed) {
  ModelConfig config;
  config.pretrained_path = checkpoint(subject).string();
  config.pretrained = false;
  config.seed = seed;
  config.device = "cpu";
  config.precision = {Precision::kFp32, Precision::kFp32, Precision::kFp32};
  return config;
}

std::unique_ptr<Model> create(const Subject& subject, const ModelConfig& config, const CreateOptions& options) {
  return registry().create_model(config, options, subject.model_type);
}

std::unique_ptr<Model> create(const Subject& subject) { return create(subject, config_of(subject)); }

const std::vector<Request>& requests() {
  static const std::vector<Request> all = {
      {"How many receipts are there?", {picture(96, 61)}},
      {"Is there anything to be read?", {}},
      {"Compare <image> with <image>, please: which is older?", {picture(23, 37), picture(64, 64)}}};
  return all;
}

std::unique_ptr<ImageFeatures> encode(const Model& model, const ModelInputs& inputs) {
  if (!inputs.pixel_values.defined()) return nullptr;
  return std::make_unique<ImageFeatures>(model.encode_images(inputs));
}

TextOutput read(const Model& model, const ModelInputs& inputs, const ImageFeatures* features,
                std::int64_t logits_to_keep) {
  const auto cache = model.new_cache(inputs.input_ids.size(0), inputs.input_ids.size(1));
  return model.forward(inputs, features, *cache, logits_to_keep);
}

TextOutput run(const Model& model, const ModelInputs& inputs, std::int64_t logits_to_keep) {
  return read(model, inputs, encode(model, inputs).get(), logits_to_keep);
}

at::Tensor tokens_of(const ImageFeatures& features, std::size_t image) {
  const auto& tiles = features.tiles_per_image;
  const auto place = tiles.begin() + static_cast<std::ptrdiff_t>(image);
  const std::int64_t first = std::accumulate(tiles.begin(), place, std::int64_t{0});
  const at::Tensor states = features.last_hidden_state.narrow(0, first, *place).flatten(0, 1);
  if (!features.valid.defined()) return states;
  return states.index_select(0, features.valid.narrow(0, first, *place).flatten().nonzero().squeeze(1));
}

at::Tensor real_rows(const TextOutput& text, const ModelInputs& inputs, std::int64_t prompt) {
  const at::Tensor rows = text.last_hidden_state[prompt];
  if (!inputs.attention_mask.defined()) return rows;
  return rows.index_select(0, inputs.attention_mask[prompt].nonzero().squeeze(1));
}

}  // namespace vlmzoo::conformance
