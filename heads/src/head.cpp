#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {
at::Tensor probabilities(const at::Tensor& logits, double temperature) {
  return at::softmax(temperature == 1 ? logits : logits.to(at::kFloat).div(temperature), -1, at::kFloat);
}

HeadConfig head_config(const ModelInfo& info, const ModelConfig& config) {
  HeadConfig result{info.model_type,  info.num_features, info.text_hidden_size,
                    /*vocab_size=*/0, config.classifier, config.class_names};
  if (result.class_names.empty()) {
    if (config.num_classes < 1 || config.num_classes > kMaxClasses) {
      throw Error(ErrorCode::kConfig,
                  fmt::format("model.num_classes is {}; expected 1 to {}", config.num_classes, kMaxClasses));
    }
    for (std::int64_t i = 0; i < config.num_classes; ++i) result.class_names.push_back(std::to_string(i));
  }
  check_head_config(result, "head", ErrorCode::kConfig);
  result.classifier = in_use(result.classifier);
  return result;
}

Head::Head(HeadConfig config, std::vector<NamedTensor> tensors)
    : config_(std::move(config)), tensors_(std::move(tensors)) {
  check_head_config(config_, "head", ErrorCode::kConfig);
  config_.classifier = in_use(config_.classifier);
  const std::vector<TensorSpec> layout = head_layout(config_);
  std::vector<FoundTensor> found;
  for (const NamedTensor& named : tensors_) found.push_back({named.name, named.tensor.sizes().vec()});
  check_head_tensors("head", layout, found);

  // In the file's order, whatever the order they came in.
  std::vector<NamedTensor> ordered;
  for (const TensorSpec& spec : layout) {
    const auto it = std::find_if(tensors_.begin(), tensors_.end(), [&](const auto& t) { return t.name == spec.name; });
    const at::ScalarType type = spec.fill == TensorSpec::Fill::kCounter ? at::kLong : at::kFloat;
    if (it->tensor.scalar_type() != type) {
      throw Error(ErrorCode::kMismatch, fmt::format("head: {} has the type {}; expected {}", spec.name,
                                                    c10::toString(it->tensor.scalar_type()), c10::toString(type)));
    }
    ordered.push_back({spec.name, it->tensor, spec.trainable});
  }
  tensors_ = std::move(ordered);

  std::span<const NamedTensor> rest(tensors_);
  const auto take = [&]() -> const at::Tensor& {
    const at::Tensor& tensor = rest.front().tensor;
    rest = rest.subspan(1);
    return tensor;
  };
  if (!poolable()) pooling_query_ = take();
  if (projects(config_.classifier)) {
    projection_weight_ = take();
    projection_bias_ = take();
  }
  if (config_.vocab_size > 0) {
    response_generator_ = ResponseGenerator(rest[rest.size() - 2].tensor, rest[rest.size() - 1].tensor);
    rest = rest.first(rest.size() - 2);
  }
  classifier_ = ClassificationHead(config_.classifier, rest);
}

std::string Head::pooled_name() const {
  const ClassifierConfig& classifier = config_.classifier;
  return needs_language() ? "multimodal: " + classifier.prompt : "vision: " + classifier.pooling;
}

void Head::require_vision() const {
  if (!needs_language()) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("head for {}: its classifier.features are multimodal, the language model's state behind its "
                          "prompt; features of vision don't have it (run_head() runs the model as the head needs it)",
                          config_.model_type));
}

void Head::require_poolable() const {
  if (poolable()) return;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("head for {}: its classifier.pooling is attention, which is learned and looks at every token; "
                  "pooled features, as a cache holds them, are not enough",
                  config_.model_type));
}

at::Tensor Head::pool_any(const ImageFeatures& features) const {
  require_vision();
  if (!poolable()) return attention_pool(features, pooling_query_);
  return config_.classifier.pooling == "mean" ? mean_pool(features) : pool_image_features(features);
}

at::Tensor Head::pool(const ImageFeatures& features) const {
  require_poolable();
  return pool_any(features);
}

at::Tensor Head::embed(const at::Tensor& pooled) const {
  if (pooled.dim() != 2 || pooled.size(1) != pooled_width()) {
    throw Error(ErrorCode::kMismatch, fmt::format("head for {}: features are {}; expected [I, {}]", config_.model_type,
                                                  shape_of(pooled), pooled_width()));
  }
  const at::Tensor wide = pooled.to(at::kFloat);
  return projection_weight_.defined() ? at::linear(wide, projection_weight_, projection_bias_) : wide;
}

HeadOutput Head::classify(const at::Tensor& pooled) const {
  HeadOutput output;
  output.embeddings = embed(pooled);
  output.logits = classifier_.forward(output.embeddings);
  return output;
}

HeadOutput Head::classify_training(const at::Tensor& pooled) {
  HeadOutput output;
  output.embeddings = embed(pooled);
  output.logits = classifier_.forward_training(output.embeddings);
  return output;
}

HeadOutput Head::forward(const ImageFeatures& features) const { return classify(pool_any(features)); }

HeadOutput Head::forward_pooled(const at::Tensor& pooled) const {
  require_poolable();
  return classify(pooled);
}

HeadOutput Head::forward_training(const ImageFeatures& features) { return classify_training(pool_any(features)); }

HeadOutput Head::forward_training(const at::Tensor& pooled) {
  require_poolable();
  return classify_training(pooled);
}

HeadOutput Head::forward_multimodal(const Model& model, const ModelInputs& inputs, const ImageFeatures* features,
                                    const TextOutput& text) const {
  const at::Tensor last = last_positions(inputs, text);
  if (last.size(1) != config_.text_hidden_size) {
    throw Error(ErrorCode::kMismatch, fmt::format("head for {}: the text's hidden states are {} wide; expected {}",
                                                  config_.model_type, last.size(1), config_.text_hidden_size));
  }
  HeadOutput output;
  if (needs_language()) {
    output = classify(last);
  } else if (features != nullptr) {
    output = forward(*features);
  }
  output.multimodal_embeddings = last.to(at::kFloat);
  output.response_logits = response_generator_.forward(model, last);
  return output;
}

Head Head::to(at::Device device) const {
  std::vector<NamedTensor> tensors = tensors_;
  for (NamedTensor& named : tensors) named.tensor = named.tensor.to(device);
  return Head(config_, std::move(tensors));
}

}  // namespace vlmzoo
