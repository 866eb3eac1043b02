#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "vlmzoo/model.hpp"

namespace vlmzoo::app {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Everything a reference can be compared with, of one run: pixel_values, input_ids, the adapter's extra inputs,
/// vision_last_hidden_state, image_embeds, last_hidden_state, logits [1, V] of the last position, generated_ids (greedy
/// and without penalties). fp32 and int64, on the CPU; what the run doesn't have is left out. Call it without
/// gradients.
NamedTensors record_run(const Model& model, const Request& request, std::int64_t max_new_tokens);

}  // namespace vlmzoo::app
