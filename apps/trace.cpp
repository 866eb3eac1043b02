#include "trace.hpp"

#include <ATen/ops/tensor.h>

#include <memory>

#include "vlmzoo/generation.hpp"
#include "vlmzoo/interrupt.hpp"

namespace vlmzoo::app {
namespace {

/// Leaves out what the run doesn't have; numbers become fp32, integers and masks int64.
void record(NamedTensors& tensors, const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  const at::ScalarType type = tensor.is_floating_point() ? at::kFloat : at::kLong;
  tensors.emplace_back(name, tensor.to(at::kCPU, type).contiguous());
}

/// An adapter may give pixel_values leading dimensions (pictures, tiles of a picture): what has a row per tile is shown
/// with them too.
at::Tensor by_tile(const at::Tensor& tensor, const at::Tensor& pixel_values) {
  if (!tensor.defined()) return tensor;
  std::vector<std::int64_t> shape =
      pixel_values.sizes().slice(0, static_cast<std::size_t>(pixel_values.dim() - 3)).vec();
  if (c10::multiply_integers(shape) != tensor.size(0)) return tensor;
  shape.insert(shape.end(), tensor.sizes().begin() + 1, tensor.sizes().end());
  return tensor.view(shape);
}

/// Greedy and without penalties whatever the configuration says; a reference can be asked for the same.
GenerationConfig greedy(std::int64_t max_new_tokens) {
  GenerationConfig result;
  result.max_new_tokens = max_new_tokens;
  result.temperature = 0;
  result.top_k = 0;
  result.top_p = 1;
  result.repetition_penalty = 1;
  return result;
}

}  // namespace

NamedTensors record_run(const Model& model, const Request& request, std::int64_t max_new_tokens) {
  const ModelInputs inputs = model.preprocess({&request, 1});
  NamedTensors tensors;
  record(tensors, "pixel_values", inputs.pixel_values);
  record(tensors, "input_ids", inputs.input_ids);
  for (const auto& [name, tensor] : inputs.extra) record(tensors, name, tensor);
  const auto on_prefill = [&](const ImageFeatures* features, const TextOutput& output) {
    if (features != nullptr) {
      record(tensors, "vision_last_hidden_state", by_tile(features->last_hidden_state, inputs.pixel_values));
      record(tensors, "image_embeds", by_tile(features->image_embeds, inputs.pixel_values));
    }
    record(tensors, "last_hidden_state", output.last_hidden_state);
    record(tensors, "logits", output.logits.select(/*dim=*/1, /*index=*/-1));
  };
  const Answer answer =
      generate(model, inputs, greedy(max_new_tokens), /*on_text=*/{}, /*times=*/nullptr, on_prefill).at(0);
  check_interrupt();  // half an answer is no golden
  record(tensors, "generated_ids", at::tensor(answer.ids, at::kLong));
  return tensors;
}

}  // namespace vlmzoo::app
