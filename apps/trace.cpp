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
  const Answer answer = generate(model, inputs, greedy(max_new_tokens)).at(0);  // first: it checks the context
  check_interrupt();                                                            // half an answer is no golden

  NamedTensors tensors;
  record(tensors, "pixel_values", inputs.pixel_values);
  record(tensors, "input_ids", inputs.input_ids);
  for (const auto& [name, tensor] : inputs.extra) record(tensors, name, tensor);
  ImageFeatures features;
  const bool pictures = inputs.pixel_values.defined();
  if (pictures) features = model.encode_images(inputs);
  record(tensors, "vision_last_hidden_state", features.last_hidden_state);
  record(tensors, "image_embeds", features.image_embeds);
  const auto cache = model.new_cache(/*batch=*/1, inputs.input_ids.size(1) + max_new_tokens);
  const TextOutput output = model.forward(inputs, pictures ? &features : nullptr, *cache);
  record(tensors, "last_hidden_state", output.last_hidden_state);
  record(tensors, "logits", output.logits.select(/*dim=*/1, /*index=*/-1));
  record(tensors, "generated_ids", at::tensor(answer.ids, at::kLong));
  return tensors;
}

}  // namespace vlmzoo::app
