#include <ATen/ops/linear.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {
namespace {

/// [B, L, H] -> [B, H]: the last position of each prompt, on whichever side the padding is.
at::Tensor last_positions(const at::Tensor& hidden, const at::Tensor& attention_mask) {
  if (hidden.dim() != 3 || hidden.size(1) == 0) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("heads: last_hidden_state of the text is {}; expected [B, L, H]", shape_of(hidden)));
  }
  if (!attention_mask.defined()) return hidden.select(1, hidden.size(1) - 1);
  if (attention_mask.dim() != 2 || attention_mask.size(0) != hidden.size(0) ||
      attention_mask.size(1) != hidden.size(1)) {
    throw Error(ErrorCode::kMismatch, fmt::format("heads: attention_mask is {} and last_hidden_state {}",
                                                  shape_of(attention_mask), shape_of(hidden)));
  }
  const at::Tensor mask = attention_mask.to(at::kCPU, at::kBool);
  std::vector<std::int64_t> rows;
  for (std::int64_t prompt = 0; prompt < mask.size(0); ++prompt) {
    const at::Tensor real = mask[prompt].nonzero();
    if (real.size(0) == 0) throw Error(ErrorCode::kMismatch, fmt::format("heads: prompt {} is all padding", prompt));
    rows.push_back(prompt * mask.size(1) + real[-1].item<std::int64_t>());
  }
  return hidden.flatten(0, 1).index_select(0, at::tensor(rows, at::kLong).to(hidden.device()));
}

}  // namespace

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
  return result;
}

Head::Head(HeadConfig config, std::vector<NamedTensor> tensors)
    : config_(std::move(config)), tensors_(std::move(tensors)) {
  check_head_config(config_, "head", ErrorCode::kConfig);
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
  projection_weight_ = rest[0].tensor;
  projection_bias_ = rest[1].tensor;
  rest = rest.subspan(2);
  if (config_.vocab_size > 0) {
    response_generator_ = ResponseGenerator(rest[rest.size() - 2].tensor, rest[rest.size() - 1].tensor);
    rest = rest.first(rest.size() - 2);
  }
  classifier_ = ClassificationHead(config_.classifier, rest);
}

at::Tensor Head::project(const at::Tensor& pooled) const {
  if (pooled.dim() != 2 || pooled.size(1) != config_.num_features) {
    throw Error(ErrorCode::kMismatch, fmt::format("head for {}: features are {}; expected [I, {}]", config_.model_type,
                                                  shape_of(pooled), config_.num_features));
  }
  return at::linear(pooled.to(at::kFloat), projection_weight_, projection_bias_);
}

HeadOutput Head::forward(const ImageFeatures& features) const { return forward_pooled(pool_image_features(features)); }

HeadOutput Head::forward_pooled(const at::Tensor& pooled) const {
  HeadOutput output;
  output.embeddings = project(pooled);
  output.logits = classifier_.forward(output.embeddings);
  return output;
}

HeadOutput Head::forward_training(const at::Tensor& pooled) {
  HeadOutput output;
  output.embeddings = project(pooled);
  output.logits = classifier_.forward_training(output.embeddings);
  return output;
}

HeadOutput Head::forward_multimodal(const Model& model, const ModelInputs& inputs, const ImageFeatures* features,
                                    const TextOutput& text) const {
  HeadOutput output;
  if (features != nullptr) output = forward(*features);
  const at::Tensor last = last_positions(text.last_hidden_state, inputs.attention_mask);
  if (last.size(1) != config_.text_hidden_size) {
    throw Error(ErrorCode::kMismatch, fmt::format("head for {}: the text's hidden states are {} wide; expected {}",
                                                  config_.model_type, last.size(1), config_.text_hidden_size));
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
