#include <ATen/ops/mean.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <numeric>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kMismatch, "pooling image features: " + message);
}

void check_shapes(const ImageFeatures& features) {
  const auto images = static_cast<std::int64_t>(features.tiles_per_image.size());
  const at::Tensor& pooled = features.pooler_output;
  if (pooled.defined()) {
    if (pooled.dim() != 2 || pooled.size(0) != images) {
      fail(fmt::format("pooler_output is {}; expected [{}, C]", shape_of(pooled), images));
    }
    return;
  }
  const at::Tensor& hidden = features.last_hidden_state;
  if (!hidden.defined()) fail("neither pooler_output nor last_hidden_state is there");
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

}  // namespace

at::Tensor pool_image_features(const ImageFeatures& features) {
  check_shapes(features);
  if (features.pooler_output.defined()) return features.pooler_output.to(at::kFloat);

  std::vector<at::Tensor> means;
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
    means.push_back(at::mean(tokens, 0, /*keepdim=*/false, at::kFloat));
    first += tiles;
  }
  if (means.empty()) return features.last_hidden_state.new_empty({0, features.last_hidden_state.size(2)}, at::kFloat);
  return at::stack(means);
}

}  // namespace vlmzoo
