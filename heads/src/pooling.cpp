#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kMismatch, "pooling image features: " + message);
}

void check_pooler(const ImageFeatures& features) {
  const auto images = static_cast<std::int64_t>(features.tiles_per_image.size());
  const at::Tensor& pooled = features.pooler_output;
  if (pooled.dim() != 2 || pooled.size(0) != images) {
    fail(fmt::format("pooler_output is {}; expected [{}, C]", shape_of(pooled), images));
  }
}

void check_tokens(const ImageFeatures& features) {
  const auto images = static_cast<std::int64_t>(features.tiles_per_image.size());
  const at::Tensor& hidden = features.last_hidden_state;
  if (!hidden.defined()) fail("there is no last_hidden_state");
  const std::vector<std::int64_t>& tiles = features.tiles_per_image;
  for (std::size_t image = 0; image < tiles.size(); ++image) {
    if (tiles[image] < 1) fail(fmt::format("picture {} has {} tiles", image, tiles[image]));
  }
  const std::int64_t rows = std::accumulate(tiles.begin(), tiles.end(), std::int64_t{0});
  if (hidden.dim() != 3 || hidden.size(0) != rows) {
    fail(fmt::format("last_hidden_state is {}; expected [{}, P, C] for {} pictures", shape_of(hidden), rows, images));
  }
  const at::Tensor& valid = features.valid;
  if (valid.defined() && (valid.scalar_type() != at::kBool || valid.dim() != 2 || valid.size(0) != rows ||
                          valid.size(1) != hidden.size(1))) {
    fail(fmt::format("valid is {}; expected bool [{}, {}]", shape_of(valid), rows, hidden.size(1)));
  }
}

/// [I, C] fp32 of what `pool` makes of the valid tokens [n, C] of each picture.
template <class Pool>
at::Tensor pool_tokens(const ImageFeatures& features, const Pool& pool) {
  check_tokens(features);
  std::vector<at::Tensor> pooled;
  std::int64_t first = 0;
  for (std::size_t image = 0; image < features.tiles_per_image.size(); ++image) {
    const std::int64_t tiles = features.tiles_per_image[image];
    at::Tensor tokens = features.last_hidden_state.narrow(0, first, tiles).flatten(0, 1);  // [tiles · P, C]
    if (features.valid.defined()) {
      // Chosen, not multiplied by the mask: padding may hold anything, infinities included.
      const at::Tensor valid = features.valid.narrow(0, first, tiles).flatten();
      tokens = tokens.index_select(0, valid.nonzero().flatten());
    }
    if (tokens.size(0) == 0) fail(fmt::format("picture {} has no valid token", image));
    pooled.push_back(pool(tokens));
    first += tiles;
  }
  if (pooled.empty()) return features.last_hidden_state.new_empty({0, features.last_hidden_state.size(2)}, at::kFloat);
  return at::stack(pooled);
}

}  // namespace

at::Tensor pool_image_features(const ImageFeatures& features) {
  if (!features.pooler_output.defined()) return mean_pool(features);
  check_pooler(features);
  return features.pooler_output.to(at::kFloat);
}

at::Tensor mean_pool(const ImageFeatures& features) {
  return pool_tokens(features,
                     [](const at::Tensor& tokens) { return at::mean(tokens, 0, /*keepdim=*/false, at::kFloat); });
}

at::Tensor attention_pool(const ImageFeatures& features, const at::Tensor& query) {
  const std::int64_t width = query.size(0);
  if (features.last_hidden_state.defined() && features.last_hidden_state.size(-1) != width) {
    fail(fmt::format("last_hidden_state is {}, the query [{}]", shape_of(features.last_hidden_state), width));
  }
  return pool_tokens(features, [&](const at::Tensor& tokens) {
    const at::Tensor values = tokens.to(at::kFloat);
    // Normalised, so that a few tokens of great magnitude (vision towers have them) don't decide alone.
    const at::Tensor keys = at::layer_norm(values, {width});
    const at::Tensor scores = at::matmul(keys, query) / std::sqrt(static_cast<double>(width));
    return at::matmul(at::softmax(scores, 0, at::kFloat), values).to(at::kFloat);
  });
}

at::Tensor last_positions(const ModelInputs& inputs, const TextOutput& text) {
  const at::Tensor &hidden = text.last_hidden_state, &attention_mask = inputs.attention_mask;
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

}  // namespace vlmzoo
