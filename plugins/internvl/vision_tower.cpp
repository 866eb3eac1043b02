#include "vision_tower.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/upsample_bicubic2d.h>

#include <algorithm>
#include <cmath>

#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/nn/recompute.hpp"

namespace vlmzoo::internvl {
namespace {

constexpr Role kRole = Role::kVision;

at::Tensor apply(const Norm& norm, const at::Tensor& x) {
  return std::visit([&](const auto& layer) { return layer(x); }, norm);
}

Norm take_norm(Weights& weights, const VisionConfig& vision, const std::string& name) {
  const at::Tensor weight = weights.tensor(kRole, name + ".weight", {vision.hidden_size});
  if (vision.rms_norm) return RmsNorm{weight, vision.norm_eps};
  return LayerNorm{weight, weights.tensor(kRole, name + ".bias", {vision.hidden_size}), vision.norm_eps};
}

/// Position embeddings [1, 1 + g², C] of another grid. Source: InternVisionEmbeddings._get_pos_embed (bicubic).
at::Tensor fit_positions(const at::Tensor& positions, std::int64_t from, std::int64_t to) {
  if (!positions.defined() || from == to) return positions;
  const std::int64_t width = positions.size(2);
  const at::Tensor grid =
      positions.narrow(1, 1, from * from).to(at::kFloat).reshape({1, from, from, width}).permute({0, 3, 1, 2});
  const at::Tensor fitted = at::upsample_bicubic2d(grid, {to, to}, /*align_corners=*/false);
  const at::Tensor patches = fitted.reshape({1, width, to * to}).permute({0, 2, 1}).to(positions.scalar_type());
  return at::cat({positions.narrow(1, 0, 1), patches}, 1);
}

}  // namespace

VisionLayer::VisionLayer(Weights& weights, const InternVlConfig& config, const std::string& prefix)
    : heads_(config.vision.heads),
      qk_norm_(config.vision.qk_norm),
      activation_(config.vision.activation),
      attention_in_bf16_(weights.attention_in_bf16(kRole)) {
  const VisionConfig& vision = config.vision;
  const TensorNames& names = config.names;
  const std::int64_t width = vision.hidden_size;
  norm1_ = take_norm(weights, vision, prefix + names.norm1);
  std::vector<std::string> qkv;
  for (const std::string& name : names.qkv) qkv.push_back(prefix + name);
  const std::vector<std::int64_t> outs(qkv.size(), 3 * width / static_cast<std::int64_t>(qkv.size()));
  qkv_ = weights.linear(kRole, qkv, width, outs, vision.qkv_bias);
  if (qk_norm_) {
    query_norm_ = {weights.tensor(kRole, prefix + names.query_norm + ".weight", {width}), vision.norm_eps};
    key_norm_ = {weights.tensor(kRole, prefix + names.key_norm + ".weight", {width}), vision.norm_eps};
  }
  output_ = weights.linear(kRole, {prefix + names.attention_output}, width, {width}, /*bias=*/true);
  scale1_ = weights.tensor(kRole, prefix + names.scale1, {width});
  norm2_ = take_norm(weights, vision, prefix + names.norm2);
  fc1_ = weights.linear(kRole, {prefix + "mlp.fc1"}, width, {vision.intermediate_size}, /*bias=*/true);
  fc2_ = weights.linear(kRole, {prefix + "mlp.fc2"}, vision.intermediate_size, {width}, /*bias=*/true);
  scale2_ = weights.tensor(kRole, prefix + names.scale2, {width});
}

at::Tensor VisionLayer::attend(const at::Tensor& x) const {
  const std::int64_t tiles = x.size(0), tokens = x.size(1), width = x.size(2);
  const at::Tensor qkv = qkv_(x).view({tiles, tokens, 3, width});
  at::Tensor query = qkv.select(2, 0), key = qkv.select(2, 1);
  if (qk_norm_) {
    query = query_norm_(query);
    key = key_norm_(key);
  }
  const auto heads = [&](const at::Tensor& t) {
    return (attention_in_bf16_ ? t.to(at::kBFloat16) : t)
        .reshape({tiles, tokens, heads_, width / heads_})
        .transpose(1, 2);
  };
  return output_(attention(heads(query), heads(key), heads(qkv.select(2, 2)), /*causal=*/false).to(x.scalar_type()));
}

at::Tensor VisionLayer::operator()(const at::Tensor& x) const {
  const at::Tensor attended = at::addcmul(x, attend(apply(norm1_, x)), scale1_);
  return at::addcmul(attended, fc2_(fc1_(apply(norm2_, attended), activation_)), scale2_);
}

VisionTower::VisionTower(Weights& weights, const InternVlConfig& config)
    : patch_size_(config.vision.patch_size), type_(weights.activation_type(kRole)) {
  const VisionConfig& vision = config.vision;
  const std::int64_t width = vision.hidden_size, grid = vision.image_size / vision.patch_size,
                     tile_grid = config.image.tile_size / vision.patch_size;
  class_embedding_ = weights.tensor(kRole, config.names.class_embedding, {1, 1, width});
  patch_weight_ = weights.tensor(kRole, config.names.patch_embedding + ".weight", {width, 3, patch_size_, patch_size_});
  patch_bias_ = weights.tensor(kRole, config.names.patch_embedding + ".bias", {width});
  position_embedding_ = fit_positions(
      weights.tensor(kRole, config.names.position_embedding, {1, grid * grid + 1, width}), grid, tile_grid);
  for (std::int64_t i = 0; i < vision.layers; ++i)
    layers_.emplace_back(weights, config, config.names.layers + std::to_string(i) + ".");
  if (vision.final_norm) {
    final_norm_ = {weights.tensor(kRole, config.names.final_norm + ".weight", {width}),
                   weights.tensor(kRole, config.names.final_norm + ".bias", {width}), vision.norm_eps};
  }
  // Tiles of one group go through a layer together; more would only grow the intermediate results.
  constexpr std::int64_t kElements = 8'000'000;
  tiles_at_once_ = std::max<std::int64_t>(1, kElements / (vision.intermediate_size * (tile_grid * tile_grid + 1)));
}

at::Tensor VisionTower::embed(const at::Tensor& pixel_values) const {
  const std::int64_t tiles = pixel_values.size(0), rows = pixel_values.size(2) / patch_size_,
                     width = class_embedding_.size(2);
  // The convolution's stride is its kernel, so it is one product over cut-out patches.
  const at::Tensor patches = pixel_values.to(class_embedding_.device(), type_)
                                 .reshape({tiles, 3, rows, patch_size_, rows, patch_size_})
                                 .permute({0, 2, 4, 1, 3, 5})
                                 .reshape({tiles, rows * rows, 3 * patch_size_ * patch_size_});
  const at::Tensor embedded = at::linear(patches, patch_weight_.view({width, -1}), patch_bias_);
  return at::cat({class_embedding_.expand({tiles, 1, width}), embedded}, 1) + position_embedding_;
}

at::Tensor VisionTower::encode(const at::Tensor& pixel_values) const {
  at::Tensor hidden = embed(pixel_values);
  for (const VisionLayer& layer : layers_) {
    hidden = recomputed([&layer](const at::Tensor& x) { return layer(x); }, hidden);
  }
  return final_norm_.weight.defined() ? final_norm_(hidden) : hidden;
}

at::Tensor VisionTower::operator()(const at::Tensor& pixel_values) const {
  std::vector<at::Tensor> groups;
  for (std::int64_t first = 0; first < pixel_values.size(0); first += tiles_at_once_) {
    check_interrupt();
    groups.push_back(encode(pixel_values.narrow(0, first, std::min(tiles_at_once_, pixel_values.size(0) - first))));
  }
  return groups.size() == 1 ? groups.front() : at::cat(groups, 0);
}

Connector::Connector(Weights& weights, const InternVlConfig& config)
    : activation_(config.connector_activation),
      downsample_(config.downsample),
      type_(weights.activation_type(Role::kConnector)) {
  const std::int64_t merged = config.vision.hidden_size * downsample_ * downsample_, text = config.text.hidden_size;
  const Role role = Role::kConnector;
  norm_ = {weights.tensor(role, config.names.connector_norm + ".weight", {merged}),
           weights.tensor(role, config.names.connector_norm + ".bias", {merged}), /*eps=*/1e-5};
  in_ = weights.linear(role, {config.names.connector_in}, merged, {text}, /*bias=*/true);
  out_ = weights.linear(role, {config.names.connector_out}, text, {text}, /*bias=*/true);
}

at::Tensor Connector::operator()(const at::Tensor& hidden) const {
  const std::int64_t tiles = hidden.size(0), patches = hidden.size(1) - 1, width = hidden.size(2);
  auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(patches))));
  const std::int64_t merged = side / downsample_;
  // Pixel shuffle "v2": the patches of a square, row by row, become the channels of one token.
  const at::Tensor shuffled = hidden.narrow(1, 1, patches)
                                  .reshape({tiles, merged, downsample_, merged, downsample_, width})
                                  .permute({0, 1, 3, 2, 4, 5})
                                  .reshape({tiles * merged * merged, width * downsample_ * downsample_});
  return out_(in_(norm_(shuffled.to(type_)), activation_));
}

}  // namespace vlmzoo::internvl
