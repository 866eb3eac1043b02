#include "vlmzoo/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "config_reader.hpp"
#include "config_schema.hpp"
#include "config_writer.hpp"
#include "shortened.hpp"
#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"
#include "yaml_values.hpp"

namespace vlmzoo {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxFileSize = std::size_t{1} << 20;
constexpr std::size_t kMaxExtends = 8;
constexpr std::size_t kMaxKeyParts = 8;  // far more than any key has; a long chain would nest as deep

constexpr std::pair<Precision, const char*> kPrecisions[] = {{Precision::kAuto, "auto"},
                                                             {Precision::kFp32, "fp32"},
                                                             {Precision::kBf16, "bf16"},
                                                             {Precision::kFp16, "fp16"},
                                                             {Precision::kInt8, "int8"}};

std::string read_config_file(const fs::path& path) {
  try {
    return read_file(path, kMaxFileSize);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCorrupt) throw;
    throw Error(ErrorCode::kConfig, fmt::format("{}: larger than 1 MB; this is no configuration", path.string()));
  }
}

fs::path base_path(const YamlNode& root, const YamlNode& extends) {
  const YamlValue value{extends, kExtends};
  const std::string text = to_text(value);
  if (text.empty()) value.refuse("the path of a file");
  const fs::path path = root.source->folder / text;
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: extends '{}', which does not exist (looked for {})",
                                                  extends.where(), shortened(text), shortened(path.string())));
  }
  return path;
}

// Appends the file's tree behind those of the files that it extends. `open` holds the files on the way here.
void read_layers(const fs::path& path, std::vector<fs::path>& open, std::vector<YamlNode>& layers) {
  YamlNode root = parse_yaml(read_config_file(path),
                             std::make_shared<YamlSource>(YamlSource{path.string(), path.parent_path(), true}));
  open.push_back(path);
  const auto key = std::find(root.keys.begin(), root.keys.end(), kExtends);
  if (key != root.keys.end()) {
    const YamlNode& extends = root.items[static_cast<std::size_t>(key - root.keys.begin())];
    const fs::path base = base_path(root, extends);
    std::error_code error;
    for (const fs::path& file : open) {
      if (!fs::equivalent(file, base, error)) continue;
      extends.fail(fmt::format("extends '{}', which leads back here", shortened(base.string())));
    }
    if (open.size() > kMaxExtends) extends.fail(fmt::format("extends more than {} files in a row", kMaxExtends));
    read_layers(base, open, layers);
  }
  layers.push_back(std::move(root));
}

// "model.num_classes=5" as the tree {model: {num_classes: 5}}.
YamlNode parse_override(const std::string& text) {
  auto source = std::make_shared<YamlSource>(YamlSource{"--set " + shortened(text), "", false});
  const auto fail = [&](std::string_view message) {
    throw Error(ErrorCode::kConfig, fmt::format("{}: {}", source->name, message));
  };
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) fail("expected key.path=value, as in model.num_classes=5; there is no '='");
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= equals;) {
    const std::size_t end = std::min(text.find('.', begin), equals);
    parts.push_back(text.substr(begin, end - begin));
    if (parts.back().empty()) fail("expected key.path=value, as in model.num_classes=5; a part of the key is empty");
    if (parts.size() > kMaxKeyParts) fail("the key has more parts than any known one");
    begin = end + 1;
  }
  if (parts[0] == kExtends) fail("extends belongs in a file; give --config that file instead");
  YamlNode node = parse_yaml(std::string_view(text).substr(equals + 1), source);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    YamlNode outer;
    outer.kind = YamlNode::Kind::kMap;
    outer.source = source;
    outer.keys.push_back(*part);
    outer.items.push_back(std::move(node));
    node = std::move(outer);
  }
  return node;
}

// What spans several keys, asked once all layers are in.
class WholeConfig {
 public:
  explicit WholeConfig(Config& config) : config_(config), model_(config.model) {}

  void settle() {
    if (model_.model_type.empty()) model_.model_type = kDefaultModelType;
    if (!given("model.freeze_vision_encoder")) model_.freeze_vision_encoder = model_.multimodal;
    settle_head();
    settle_classes();
    settle_precision();
    check_layers();
    check_features();
    check_training();
  }

 private:
  bool given(const char* key) const { return config_.origins.contains(key); }
  std::string place(const char* key) const { return given(key) ? config_.origins.at(key) : "default"; }

  // The message begins with the place of `key`, or of `other` when `key` has its default.
  [[noreturn]] void fail(const char* key, const char* other, const std::string& message) const {
    throw Error(ErrorCode::kConfig, fmt::format("{}: {}", place(given(key) ? key : other), message));
  }

  // As OmegaConf writes it. With the head in the checkpoint's folder, configurations of two models differ in two lines.
  void settle_head() {
    constexpr const char* kHead = "model.head";
    constexpr std::string_view kFolder = "${model.pretrained_path}/";
    if (!model_.head.starts_with(kFolder)) return;
    if (model_.pretrained_path.empty()) {
      fail(kHead, kHead,
           fmt::format("{} is '{}', but model.pretrained_path is not set", kHead, shortened(model_.head)));
    }
    model_.head = (resolve_pretrained_path(model_.pretrained_path) / model_.head.substr(kFolder.size())).string();
  }

  void settle_classes() {
    if (model_.class_names.empty()) return;
    const auto count = static_cast<std::int64_t>(model_.class_names.size());
    constexpr const char* kNames = "model.id2label";
    constexpr const char* kCount = "model.num_classes";
    if (count < 2 || count > 10000) {
      fail(kNames, kNames, fmt::format("{} must name between 2 and 10000 classes, got {}", kNames, count));
    }
    if (given(kCount) && model_.num_classes != count) {
      fail(kCount, kNames,
           fmt::format("{} is {}, but {} ({}) names {} classes", kCount, model_.num_classes, kNames, place(kNames),
                       count));
    }
    model_.num_classes = count;
  }

  void settle_precision() {
    if (!model_.use_8bit) return;
    for (Precision* role : {&model_.precision.connector, &model_.precision.language}) {
      if (*role != Precision::kAuto && *role != Precision::kInt8) {
        fail("model.use_8bit", "model.precision",
             fmt::format(
                 "model.use_8bit: true asks for int8 in connector and language, but model.precision ({}) for {}; "
                 "keep one of them",
                 place("model.precision"), to_string(*role)));
      }
      *role = Precision::kInt8;
    }
  }

  void check_layers() const {
    const std::size_t layers = model_.classifier.hidden_dims.size(), rates = model_.classifier.dropout_rates.size();
    if (layers == rates) return;
    constexpr const char* kLayers = "model.classifier.hidden_dims";
    constexpr const char* kRates = "model.classifier.dropout_rates";
    fail(kLayers, kRates,
         fmt::format("{} has {} entries and {} ({}) has {}; each hidden layer needs one rate", kLayers, layers, kRates,
                     place(kRates), rates));
  }

  void check_features() const {
    const ClassifierConfig& classifier = model_.classifier;
    constexpr const char* kFeatures = "model.classifier.features";
    if (classifier.features != "multimodal") {
      // A head file may say more than the configuration.
      if (model_.head.empty() && classifier.prompt != ClassifierConfig{}.prompt) {
        warn_once("model.classifier.prompt has no effect with model.classifier.features: vision");
      }
      return;
    }
    if (classifier.pooling != ClassifierConfig{}.pooling) {
      fail("model.classifier.pooling", kFeatures,
           fmt::format("model.classifier.pooling: {} pools the features of vision, but {} ({}) is multimodal, one "
                       "hidden state per picture; leave one of them out",
                       classifier.pooling, kFeatures, place(kFeatures)));
    }
    if (!model_.multimodal) {
      fail(kFeatures, "model.multimodal",
           fmt::format("{}: multimodal needs the language model, but model.multimodal ({}) is false; set it to true, "
                       "or take vision features",
                       kFeatures, place("model.multimodal")));
    }
  }

  void check_training() const {
    if (config_.training.fp16 && config_.training.bf16) {
      fail("training.fp16", "training.bf16",
           fmt::format("training.fp16 and training.bf16 ({}) can't both be true", place("training.bf16")));
    }
    if (config_.training.parallel_batches && config_.training.gradient_accumulation_steps == 1) {
      fail("training.parallel_batches", "training.gradient_accumulation_steps",
           fmt::format("training.parallel_batches computes the batches of a step at once, and "
                       "training.gradient_accumulation_steps ({}) is 1; halve batch_size and set it to 2, say",
                       place("training.gradient_accumulation_steps")));
    }
    if (config_.training.parallel_batches && config_.training.memory_efficient) {
      fail("training.parallel_batches", "training.memory_efficient",
           fmt::format("training.parallel_batches keeps the intermediate results of several batches, "
                       "training.memory_efficient ({}) of none; set one of them to false",
                       place("training.memory_efficient")));
    }
    if (config_.training.torch_compile) {
      warn_once("training.torch_compile is ignored: there is nothing to compile in a C++ program");
    }
  }

  Config& config_;
  ModelConfig& model_;
};

Config build(std::vector<YamlNode> layers, std::span<const std::string> overrides) {
  for (const std::string& override_text : overrides) layers.push_back(parse_override(override_text));
  Config config;
  for (const YamlNode& layer : layers) apply_layer(layer, config);
  WholeConfig(config).settle();
  config.resolved = to_yaml(config);
  return config;
}

}  // namespace

std::string to_string(Precision precision) {
  for (const auto& [value, name] : kPrecisions) {
    if (value == precision) return name;
  }
  throw Error(ErrorCode::kInternal, fmt::format("no such precision: {}", static_cast<int>(precision)));
}

Precision parse_precision(const std::string& text, const std::string& where) {
  for (const auto& [value, name] : kPrecisions) {
    if (text == name) return value;
  }
  throw Error(ErrorCode::kConfig,
              fmt::format("{} must be auto | fp32 | bf16 | fp16 | int8, got '{}'", where, shortened(text)));
}

Config load_config(const fs::path& path, std::span<const std::string> overrides) {
  std::vector<fs::path> open;
  std::vector<YamlNode> layers;
  read_layers(path, open, layers);
  return build(std::move(layers), overrides);
}

Config default_config(std::span<const std::string> overrides) { return build({}, overrides); }

}  // namespace vlmzoo
