#include "head_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo {
namespace {

// Far above any real head; low enough that no product of two widths comes near 64 bits.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 24;
constexpr std::size_t kMaxLayers = 64;

constexpr std::size_t kNamedTensors = 20;
constexpr std::size_t kListBudget = 1'100;  // three lists and the text around them stay below 4,000 characters

class Problems {
 public:
  explicit Problems(const char* what) : what_(what) {}

  void add(const std::string& text) {
    ++count_;
    if (named_ == kNamedTensors || list_.size() + text.size() > kListBudget) return;
    ++named_;
    list_ += (list_.empty() ? "" : ", ") + text;
  }
  std::string text() const {
    if (count_ == 0) return "";
    const std::string more = count_ > named_ ? fmt::format(", and {} more", count_ - named_) : "";
    return fmt::format("; {} {}: {}{}", count_, what_, list_, more);
  }

 private:
  const char* what_;
  std::size_t count_ = 0, named_ = 0;
  std::string list_;
};

void add_linear(std::vector<TensorSpec>& layout, const std::string& name, std::int64_t in, std::int64_t out) {
  layout.push_back({name + ".weight", {out, in}, TensorSpec::Fill::kUniform, in, true});
  layout.push_back({name + ".bias", {out}, TensorSpec::Fill::kUniform, in, true});
}

void add_batch_norm(std::vector<TensorSpec>& layout, const std::string& name, std::int64_t width) {
  layout.push_back({name + ".weight", {width}, TensorSpec::Fill::kOne, 0, true});
  layout.push_back({name + ".bias", {width}, TensorSpec::Fill::kZero, 0, true});
  layout.push_back({name + ".running_mean", {width}, TensorSpec::Fill::kZero, 0, false});
  layout.push_back({name + ".running_var", {width}, TensorSpec::Fill::kOne, 0, false});
  layout.push_back({name + ".num_batches_tracked", {}, TensorSpec::Fill::kCounter, 0, false});
}

void check_width(const std::string& key, std::int64_t width, std::int64_t low, const std::string& where,
                 ErrorCode code) {
  if (width >= low && width <= kMaxWidth) return;
  throw Error(code, fmt::format("{}: {} is {}; expected {} to {}", where, key, width, low, kMaxWidth));
}

/// `words` are separated by " | ".
void check_word(const char* key, const std::string& value, const std::string& words, const std::string& where,
                ErrorCode code) {
  const bool whole = !value.empty() && value.find_first_of(" |") == std::string::npos;
  if (whole && (" " + words + " ").find(" " + value + " ") != std::string::npos) return;
  throw Error(code, fmt::format("{}: classifier.{} is {}; expected {}", where, key, in_quotes(value), words));
}

void check_classifier(const ClassifierConfig& classifier, const std::string& where, ErrorCode code) {
  const auto fail = [&](const std::string& message) { throw Error(code, where + ": " + message); };
  if (classifier.hidden_dims.size() != classifier.dropout_rates.size()) {
    fail(fmt::format("classifier.hidden_dims has {} entries and classifier.dropout_rates {}; give one rate per layer",
                     classifier.hidden_dims.size(), classifier.dropout_rates.size()));
  }
  if (classifier.hidden_dims.size() > kMaxLayers) {
    fail(fmt::format("classifier.hidden_dims has {} layers; at most {}", classifier.hidden_dims.size(), kMaxLayers));
  }
  for (const std::int64_t width : classifier.hidden_dims) {
    check_width("an entry of classifier.hidden_dims", width, 1, where, code);
  }
  for (const double rate : classifier.dropout_rates) {
    if (!(rate >= 0 && rate < 1)) {
      fail(fmt::format("an entry of classifier.dropout_rates is {}; expected 0 <= rate < 1", rate));
    }
  }
  check_word("activation", classifier.activation, "gelu | relu | silu | tanh", where, code);
  check_word("type", classifier.type, "mlp | linear", where, code);
  check_word("features", classifier.features, "vision | multimodal", where, code);
  check_word("pooling", classifier.pooling, "model | mean | attention", where, code);
  if (classifier.features == "vision") return;
  if (classifier.pooling != ClassifierConfig{}.pooling) {
    fail(fmt::format("classifier.pooling is {}, which pools features of vision, and classifier.features are multimodal",
                     classifier.pooling));
  }
  if (classifier.prompt.empty()) fail("classifier.prompt is empty; multimodal features need one");
}

}  // namespace

std::string shape_of(const at::Tensor& tensor) {
  return to_string(std::span(tensor.sizes().data(), tensor.sizes().size()));
}

std::string in_quotes(const std::string& text) {
  constexpr std::size_t kLongest = 60;
  // Escaped to ASCII when it has to be cut, so that the cut can't fall into a character.
  const bool cut = text.size() > kLongest;
  const std::string json = Json(text.substr(0, 4 * kLongest)).dump(-1, ' ', cut, Json::error_handler_t::replace);
  return cut ? json.substr(0, kLongest) + "…\"" : json;
}

void check_head_config(const HeadConfig& config, const std::string& where, ErrorCode code) {
  const auto fail = [&](const std::string& message) { throw Error(code, where + ": " + message); };
  check_width("num_features", config.num_features, 1, where, code);
  check_width("text_hidden_size", config.text_hidden_size, 1, where, code);
  check_width("vocab_size", config.vocab_size, 0, where, code);

  check_classifier(config.classifier, where, code);
  if (!(config.temperature > 0) || !std::isfinite(config.temperature)) {
    fail(fmt::format("temperature is {}; expected a positive number", config.temperature));
  }
  if (config.class_names.empty() || std::ssize(config.class_names) > kMaxClasses) {
    fail(fmt::format("{} classes; expected 1 to {}", config.class_names.size(), kMaxClasses));
  }
  std::set<std::string> seen;
  for (const std::string& name : config.class_names) {
    if (!seen.insert(name).second) fail(fmt::format("two classes are named {}", in_quotes(name)));
  }
}

ClassifierConfig in_use(ClassifierConfig classifier) {
  const ClassifierConfig defaults;
  if (classifier.type == "linear") {
    classifier.hidden_dims.clear();
    classifier.dropout_rates.clear();
    classifier.batch_norm = defaults.batch_norm;
    classifier.activation = defaults.activation;
  }
  if (classifier.features == "vision") classifier.prompt = defaults.prompt;
  return classifier;
}

bool projects(const ClassifierConfig& classifier) {
  return classifier.features == "vision" && classifier.type == "mlp";
}

std::vector<TensorSpec> head_layout(const HeadConfig& config) {
  const ClassifierConfig classifier = in_use(config.classifier);
  std::vector<TensorSpec> layout;
  if (classifier.pooling == "attention") {
    layout.push_back({"attention_pooling.query", {config.num_features}, TensorSpec::Fill::kZero, 0, true});
  }
  std::int64_t width = classifier.features == "vision" ? config.num_features : config.text_hidden_size;
  if (projects(classifier)) {
    add_linear(layout, "vision_projection", width, config.text_hidden_size);
    width = config.text_hidden_size;
  }
  for (std::size_t i = 0; i < classifier.hidden_dims.size(); ++i) {
    const std::string layer = fmt::format("classification_head.layers.{}.", i);
    add_linear(layout, layer + "linear", width, classifier.hidden_dims[i]);
    width = classifier.hidden_dims[i];
    if (classifier.batch_norm) add_batch_norm(layout, layer + "norm", width);
  }
  add_linear(layout, "classification_head.out", width, static_cast<std::int64_t>(config.class_names.size()));
  if (config.vocab_size > 0) add_linear(layout, "response_generator", config.text_hidden_size, config.vocab_size);
  return layout;
}

void check_head_tensors(const std::string& where, const std::vector<TensorSpec>& layout,
                        std::span<const FoundTensor> found) {
  std::map<std::string, const FoundTensor*> by_name;
  for (const FoundTensor& tensor : found) by_name.emplace(tensor.name, &tensor);
  Problems missing("missing"), unexpected("unexpected"), misshaped("of another shape");
  for (const TensorSpec& spec : layout) {
    const auto it = by_name.find(spec.name);
    if (it == by_name.end()) {
      missing.add(fmt::format("{} {}", spec.name, to_string(spec.shape)));
      continue;
    }
    const std::vector<std::int64_t>& shape = it->second->shape;
    if (shape != spec.shape) {
      const std::string got = shape.size() > 8 ? fmt::format("{} dimensions", shape.size()) : to_string(shape);
      misshaped.add(fmt::format("{} is {}, expected {}", spec.name, got, to_string(spec.shape)));
    }
    by_name.erase(it);
  }
  for (const auto& [name, tensor] : by_name) unexpected.add(in_quotes(name));
  const std::string problems = missing.text() + unexpected.text() + misshaped.text();
  if (!problems.empty()) {
    throw Error(ErrorCode::kMismatch, fmt::format("{}: tensors don't fit{}", where, problems));
  }
}

void check_head_memory(const std::vector<TensorSpec>& layout) {
  std::uint64_t bytes = 0;
  for (const TensorSpec& spec : layout) {
    std::uint64_t count = 1;
    for (const std::int64_t size : spec.shape) count *= static_cast<std::uint64_t>(size);
    bytes += count * sizeof(float);
  }
  const std::uint64_t available = available_memory();
  if (bytes > available) {
    throw Error(ErrorCode::kMemory,
                fmt::format("the head takes {} and {} are free; make classifier.hidden_dims smaller",
                            format_bytes(bytes), format_bytes(available)));
  }
}

}  // namespace vlmzoo
