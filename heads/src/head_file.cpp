#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/tensor_types.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo {
namespace {

using Metadata = std::map<std::string, std::string>;

/// The key that makes a safetensors file a head file; its value is the version of the format.
constexpr const char* kFormatKey = "vlmzoo_head";
constexpr std::int64_t kFormatVersion = 1;

[[noreturn]] void corrupt(const std::string& where, const std::string& message) {
  throw Error(ErrorCode::kCorrupt, where + ": " + message);
}

const std::string& text_of(const Metadata& metadata, const std::string& key, const std::string& where) {
  const auto it = metadata.find(key);
  if (it == metadata.end()) corrupt(where, "its metadata has no " + key);
  return it->second;
}

std::int64_t integer_of(const Metadata& metadata, const std::string& key, const std::string& where) {
  const std::string& text = text_of(metadata, key, where);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    corrupt(where, fmt::format("{} in its metadata is {}; expected an integer", key, in_quotes(text)));
  }
  return value;
}

/// Absent in files without a fitted one.
double temperature_of(const Metadata& metadata, const std::string& where) {
  const auto it = metadata.find("temperature");
  if (it == metadata.end()) return 1;
  const std::string& text = it->second;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    corrupt(where, fmt::format("temperature in its metadata is {}; expected a number", in_quotes(text)));
  }
  return value;
}

std::vector<std::string> parse_class_names(const std::string& text, const std::string& where) {
  const Json names = parse_json(text, where + ": class_names");
  std::vector<std::string> result;
  for (const Json& name : names) {
    if (!names.is_array() || !name.is_string()) corrupt(where, "class_names in its metadata is no list of texts");
    result.push_back(name.get<std::string>());
  }
  return result;
}

/// What makes the variants, by the names in files and configurations.
std::vector<std::pair<const char*, std::string*>> variant_keys(ClassifierConfig& config) {
  return {
      {"type", &config.type}, {"features", &config.features}, {"pooling", &config.pooling}, {"prompt", &config.prompt}};
}

ClassifierConfig parse_classifier(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where + ": classifier");
  const auto field = [&](const char* key, const char* expected, auto&& fits) -> const Json& {
    const bool there = json.is_object() && json.contains(key);
    if (!there || !fits(json[key])) {
      corrupt(where, fmt::format("classifier.{} in its metadata is {}; expected {}", key,
                                 there ? "something else" : "missing", expected));
    }
    return json[key];
  };
  const auto list_of = [](auto fits) {
    return [fits](const Json& list) { return list.is_array() && std::all_of(list.begin(), list.end(), fits); };
  };
  const auto is_integer = [](const Json& value) { return value.is_number_integer(); };
  const auto is_number = [](const Json& value) { return value.is_number(); };

  ClassifierConfig config;
  config.hidden_dims = field("hidden_dims", "a list of integers", list_of(is_integer)).get<std::vector<std::int64_t>>();
  config.dropout_rates = field("dropout_rates", "a list of numbers", list_of(is_number)).get<std::vector<double>>();
  config.batch_norm = field("batch_norm", "true or false", [](const Json& v) { return v.is_boolean(); }).get<bool>();
  const auto is_text = [](const Json& value) { return value.is_string(); };
  config.activation = field("activation", "a text", is_text).get<std::string>();
  // Absent in files from before there were variants.
  for (const auto& [key, member] : variant_keys(config)) {
    if (json.contains(key)) *member = field(key, "a text", is_text).get<std::string>();
  }
  return in_use(config);
}

std::string json_of(const ClassifierConfig& config) {
  nlohmann::ordered_json json;
  json["hidden_dims"] = config.hidden_dims;
  json["dropout_rates"] = config.dropout_rates;
  json["batch_norm"] = config.batch_norm;
  json["activation"] = config.activation;
  json["type"] = config.type;
  json["features"] = config.features;
  if (config.features == "vision") {
    json["pooling"] = config.pooling;
  } else {
    json["prompt"] = config.prompt;
  }
  return json.dump();
}

HeadConfig parse_metadata(const SafetensorsFile& file) {
  const std::string where = "head file " + file.path().string();
  const Metadata& metadata = file.metadata();
  if (!metadata.contains(kFormatKey)) {
    corrupt(where,
            fmt::format("not a head file (no {} in its metadata); a head file is written by training", kFormatKey));
  }
  const std::int64_t version = integer_of(metadata, kFormatKey, where);
  if (version != kFormatVersion) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: format version {}; this program reads {}", where, version, kFormatVersion));
  }
  HeadConfig config;
  config.model_type = text_of(metadata, "model_type", where);
  config.num_features = integer_of(metadata, "num_features", where);
  config.text_hidden_size = integer_of(metadata, "text_hidden_size", where);
  config.vocab_size = metadata.contains("vocab_size") ? integer_of(metadata, "vocab_size", where) : 0;
  config.class_names = parse_class_names(text_of(metadata, "class_names", where), where);
  config.classifier = parse_classifier(text_of(metadata, "classifier", where), where);
  config.temperature = temperature_of(metadata, where);
  check_head_config(config, where, ErrorCode::kCorrupt);
  return config;
}

/// What `config` asks for; keys that it leaves at their defaults are the file's.
ClassifierConfig asked_of(const ClassifierConfig& config, const ClassifierConfig& file) {
  const ClassifierConfig defaults;
  ClassifierConfig asked = in_use(config);
  asked.prompt = config.prompt;
  const auto settle = [&](auto member) {
    if (config.*member == defaults.*member) asked.*member = file.*member;
  };
  using C = ClassifierConfig;
  settle(&C::type);
  settle(&C::features);
  settle(&C::pooling);
  settle(&C::prompt);
  if (config.type != "linear") {
    settle(&C::hidden_dims);
    settle(&C::dropout_rates);
    settle(&C::batch_norm);
    settle(&C::activation);
  }
  return asked;
}

bool unnamed(const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] != std::to_string(i)) return false;
  }
  return true;
}

std::string list_of_classes(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 10;
  std::string list;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) list += (i > 0 ? ", " : "") + in_quotes(names[i]);
  if (names.size() > kShown) list += fmt::format(", and {} more", names.size() - kShown);
  return fmt::format("{} classes ({})", names.size(), list);
}

/// The classes of the head, by the file's names or the configuration's. A difference is added to `problems`.
std::vector<std::string> reconcile_classes(const std::vector<std::string>& file, const ModelConfig& config,
                                           std::string& problems) {
  if (config.class_names.empty()) {
    const auto count = static_cast<std::int64_t>(file.size());
    if (config.num_classes != count && config.num_classes != ModelConfig{}.num_classes) {
      problems += fmt::format("; it tells {} apart, the configuration's num_classes is {}", list_of_classes(file),
                              config.num_classes);
    }
    return file;
  }
  const bool only_named = unnamed(file) && config.class_names.size() == file.size();
  if (file != config.class_names && !only_named) {
    problems += fmt::format("; it tells {} apart, the configuration has {}", list_of_classes(file),
                            list_of_classes(config.class_names));
  }
  return config.class_names;
}

/// The file's config with the names of `config`. Throws unless the head fits both sides.
HeadConfig reconcile(HeadConfig file, const ModelInfo& info, const ModelConfig& config, const std::string& where) {
  std::string problems;
  if (file.model_type != info.model_type || file.num_features != info.num_features ||
      file.text_hidden_size != info.text_hidden_size) {
    problems += fmt::format("; it was made for {} with {} features and text width {}, the model is {} with {} and {}",
                            in_quotes(file.model_type), file.num_features, file.text_hidden_size,
                            in_quotes(info.model_type), info.num_features, info.text_hidden_size);
  }
  if (file.vocab_size > 0 && file.vocab_size != info.vocab_size) {
    problems += fmt::format("; its response generator has a vocabulary of {}, the model's has {}", file.vocab_size,
                            info.vocab_size);
  }
  file.class_names = reconcile_classes(file.class_names, config, problems);
  const std::string classifier = json_of(file.classifier),
                    asked = json_of(asked_of(config.classifier, file.classifier));
  if (classifier != asked) {
    problems += fmt::format("; its classifier is {}, the configuration's is {}", classifier, asked);
  }
  if (!problems.empty()) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} does not fit{}; choose another head, or correct the configuration, or leave `head` out "
                            "for a fresh one",
                            where, problems));
  }
  return file;
}

at::ScalarType type_of(const TensorEntry& entry, bool counter, const std::string& where) {
  const at::ScalarType type = scalar_type(entry.dtype);
  if (counter ? type == at::kLong : c10::isFloatingType(type) && type != at::kDouble) return type;
  throw Error(ErrorCode::kMismatch, fmt::format("{}: {} has the type {}; expected {}", where, entry.name,
                                                name_of(entry.dtype), counter ? "I64" : "F32, F16 or BF16"));
}

at::Tensor read_tensor(const SafetensorsFile& file, const TensorSpec& spec, const std::string& where) {
  const TensorEntry& entry = *file.find(spec.name);
  const bool counter = spec.fill == TensorSpec::Fill::kCounter;
  at::Tensor tensor = at::empty(spec.shape, type_of(entry, counter, where));
  file.read(entry, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return counter ? tensor : tensor.to(at::kFloat);
}

}  // namespace

void save_head(const std::filesystem::path& path, const Head& head) {
  const HeadConfig& config = head.config();
  Metadata metadata = {{kFormatKey, std::to_string(kFormatVersion)},
                       {"format", "pt"},  // readers of the field look for it
                       {"created_by", "vlmzoo " VLMZOO_VERSION},
                       {"model_type", config.model_type},
                       {"num_features", std::to_string(config.num_features)},
                       {"text_hidden_size", std::to_string(config.text_hidden_size)},
                       {"class_names", Json(config.class_names).dump()},
                       {"classifier", json_of(config.classifier)}};
  if (config.vocab_size > 0) metadata["vocab_size"] = std::to_string(config.vocab_size);
  if (config.temperature != 1) metadata["temperature"] = fmt::format("{}", config.temperature);  // reads back exactly

  write_tensors(path, head.tensors(), metadata);
}

HeadConfig read_head_config(const std::filesystem::path& path) { return parse_metadata(SafetensorsFile(path)); }

Head load_head(const std::filesystem::path& path, const ModelInfo& info, const ModelConfig& config) {
  const SafetensorsFile file(path);
  const std::string where = "head file " + path.string();
  HeadConfig head = reconcile(parse_metadata(file), info, config, where);

  const std::vector<TensorSpec> layout = head_layout(head);
  std::vector<FoundTensor> found;
  for (const TensorEntry& entry : file.entries()) found.push_back({entry.name, entry.shape});
  check_head_tensors(where, layout, found);
  std::vector<NamedTensor> tensors;
  for (const TensorSpec& spec : layout) tensors.push_back({spec.name, read_tensor(file, spec, where), spec.trainable});
  return Head(std::move(head), std::move(tensors));
}

Head make_head(const ModelInfo& info, const ModelConfig& config, bool* fresh) {
  if (fresh != nullptr) *fresh = config.head.empty();
  const Head head =
      config.head.empty() ? fresh_head(head_config(info, config), config.seed) : load_head(config.head, info, config);
  return head.to(resolve_device(config.device));
}

}  // namespace vlmzoo
