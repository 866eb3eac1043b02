#include "vision_tower.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/nn/recompute.hpp"

namespace vlmzoo::llama_vision {
namespace {

constexpr Role kRole = Role::kVision;
constexpr double kOuterNormEps = 1e-5;  // of the norms around the transformers, whatever norm_eps says

LayerNorm take_norm(Weights& weights, const VisionConfig& vision, const std::string& name, double eps) {
  return {weights.tensor(kRole, name + ".weight", {vision.hidden_size}),
          weights.tensor(kRole, name + ".bias", {vision.hidden_size}), eps};
}

std::vector<VisionLayer> take_layers(Weights& weights, const VisionConfig& vision, const std::string& prefix,
                                     std::int64_t count, bool gated) {
  std::vector<VisionLayer> layers;
  for (std::int64_t i = 0; i < count; ++i)
    layers.emplace_back(weights, vision, prefix + "layers." + std::to_string(i) + ".", gated);
  return layers;
}

at::Tensor add_gated(const at::Tensor& x, const at::Tensor& change, const at::Tensor& gate) {
  return gate.defined() ? at::addcmul(x, change, at::tanh(gate)) : x + change;
}

}  // namespace

VisionLayer::VisionLayer(Weights& weights, const VisionConfig& vision, const std::string& prefix, bool gated)
    : heads_(vision.heads), activation_(vision.activation), attention_in_bf16_(weights.attention_in_bf16(kRole)) {
  const std::int64_t width = vision.hidden_size;
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  norm1_ = take_norm(weights, vision, prefix + "input_layernorm", vision.norm_eps);
  qkv_ = weights.linear(kRole, {attention + "q_proj", attention + "k_proj", attention + "v_proj"}, width,
                        {width, width, width}, /*bias=*/false);
  output_ = weights.linear(kRole, {attention + "o_proj"}, width, {width}, /*bias=*/false);
  norm2_ = take_norm(weights, vision, prefix + "post_attention_layernorm", vision.norm_eps);
  fc1_ = weights.linear(kRole, {mlp + "fc1"}, width, {vision.intermediate_size}, /*bias=*/true);
  fc2_ = weights.linear(kRole, {mlp + "fc2"}, vision.intermediate_size, {width}, /*bias=*/true);
  if (gated) {
    attention_gate_ = weights.tensor(kRole, prefix + "gate_attn", {1});
    mlp_gate_ = weights.tensor(kRole, prefix + "gate_ffn", {1});
  }
}

at::Tensor VisionLayer::attend(const at::Tensor& x, std::int64_t real) const {
  const std::int64_t pictures = x.size(0), tokens = x.size(1), width = x.size(2);
  const at::Tensor projected = qkv_(x);
  const at::Tensor qkv = (attention_in_bf16_ ? projected.to(at::kBFloat16) : projected)
                             .view({pictures, tokens, 3, heads_, width / heads_});
  const at::Tensor query = qkv.select(2, 0).transpose(1, 2), key = qkv.select(2, 1).transpose(1, 2),
                   value = qkv.select(2, 2).transpose(1, 2);  // [I, heads, T, C / heads]
  const at::Tensor of_real = attention(query.narrow(2, 0, real), key, value, /*causal=*/false);
  const at::Tensor of_padding = attention(query.narrow(2, real, tokens - real), key.narrow(2, 0, real),
                                          value.narrow(2, 0, real), /*causal=*/false);
  return output_(at::cat({of_real, of_padding}, 1).to(x.scalar_type()));
}

at::Tensor VisionLayer::operator()(const at::Tensor& x, std::int64_t real) const {
  const at::Tensor attended = add_gated(x, attend(norm1_(x), real), attention_gate_);
  return add_gated(attended, fc2_(fc1_(norm2_(attended), activation_)), mlp_gate_);
}

TileEmbedding::TileEmbedding(Weights& weights, const VisionConfig& vision, const std::string& prefix)
    : width_(vision.hidden_size) {
  const auto ratios = static_cast<std::int64_t>(supported_grids(vision.max_tiles).size());
  table_ = weights.embedding(kRole, prefix + "embedding.weight", {ratios + 1, vision.max_tiles * width_});
  gate_ = weights.tensor(kRole, prefix + "gate", {1});
}

at::Tensor TileEmbedding::operator()(std::int64_t aspect_ratio_id) const {
  return table_.select(0, aspect_ratio_id).to(gate_.scalar_type()).view({-1, 1, width_}) * at::tanh(gate_);
}

VisionTower::VisionTower(Weights& weights, const LlamaVisionConfig& config)
    : patch_size_(config.vision.patch_size),
      tiles_(config.vision.max_tiles),
      tokens_(config.vision.tokens()),
      padding_((8 - tokens_ % 8) % 8),
      width_(config.vision.hidden_size),
      intermediate_layers_(config.vision.intermediate_layers),
      type_(weights.activation_type(kRole)) {
  const VisionConfig& vision = config.vision;
  const std::string& prefix = config.names.vision;
  const std::string positions = prefix + "gated_positional_embedding.";
  const auto ratios = static_cast<std::int64_t>(supported_grids(tiles_).size());
  patch_weight_ = weights.tensor(kRole, prefix + "patch_embedding.weight", {width_, 3, patch_size_, patch_size_});
  class_embedding_ = weights.tensor(kRole, prefix + "class_embedding", {width_});
  position_gate_ = weights.tensor(kRole, positions + "gate", {1});
  position_embedding_ = weights.tensor(kRole, positions + "embedding", {tokens_, width_});
  tile_position_embedding_ =
      weights.embedding(kRole, positions + "tile_embedding.weight", {ratios + 1, tiles_ * tokens_ * width_});
  pre_tile_ = TileEmbedding(weights, vision, prefix + "pre_tile_positional_embedding.");
  norm_pre_ = take_norm(weights, vision, prefix + "layernorm_pre", kOuterNormEps);
  local_ = take_layers(weights, vision, prefix + "transformer.", vision.layers, /*gated=*/false);
  norm_post_ = take_norm(weights, vision, prefix + "layernorm_post", kOuterNormEps);
  post_tile_ = TileEmbedding(weights, vision, prefix + "post_tile_positional_embedding.");
  global_ = take_layers(weights, vision, prefix + "global_transformer.", vision.global_layers, /*gated=*/true);
  // Pictures of one group go through a layer together; more would only grow the intermediate results.
  constexpr std::int64_t kElements = 8'000'000;
  pictures_at_once_ = std::max<std::int64_t>(1, kElements / (vision.intermediate_size * tiles_ * (tokens_ + padding_)));
}

at::Tensor VisionTower::embed(const at::Tensor& pixel_values, std::int64_t aspect_ratio_id) const {
  const std::int64_t pictures = pixel_values.size(0), rows = pixel_values.size(-1) / patch_size_;
  // The convolution's stride is its kernel, so it is one product over cut-out patches.
  const at::Tensor patches = pixel_values.to(class_embedding_.device(), type_)
                                 .reshape({pictures * tiles_, 3, rows, patch_size_, rows, patch_size_})
                                 .permute({0, 2, 4, 1, 3, 5})
                                 .reshape({pictures, tiles_, rows * rows, 3 * patch_size_ * patch_size_});
  const at::Tensor embedded = at::linear(patches, patch_weight_.view({width_, -1}), {}) + pre_tile_(aspect_ratio_id);
  const at::Tensor with_class = at::cat({class_embedding_.expand({pictures, tiles_, 1, width_}), embedded}, 2);
  const at::Tensor gate = at::tanh(position_gate_);
  const at::Tensor of_tiles =
      tile_position_embedding_.select(0, aspect_ratio_id).to(type_).view({tiles_, tokens_, width_});
  return with_class + (1 - gate) * position_embedding_ + gate * of_tiles;
}

at::Tensor VisionTower::add_tile_embedding(const at::Tensor& hidden, std::int64_t aspect_ratio_id) const {
  const at::Tensor embedding = post_tile_(aspect_ratio_id);
  const auto added = [&](std::int64_t first, std::int64_t per_tile) {
    return (hidden.narrow(1, first, tiles_ * per_tile).unflatten(1, {tiles_, per_tile}) + embedding).flatten(1, 2);
  };
  return at::cat({added(0, tokens_), added(tiles_ * tokens_, padding_)}, 1);
}

at::Tensor VisionTower::operator()(const at::Tensor& pixel_values, std::int64_t tiles,
                                   std::int64_t aspect_ratio_id) const {
  // The order of tokens is free: those of used tiles, of unused ones, then the zeros that fill each tile to a multiple
  // of 8. So what is real is one piece, and so is what is padding.
  const std::int64_t pictures = pixel_values.size(0), real = tiles * tokens_, tokens = tiles_ * tokens_;
  const at::Tensor embedded = norm_pre_(embed(pixel_values, aspect_ratio_id)).flatten(1, 2);
  at::Tensor hidden = at::cat({embedded, at::zeros({pictures, tiles_ * padding_, width_}, embedded.options())}, 1);
  std::vector<at::Tensor> intermediate;
  for (std::size_t i = 0; i < local_.size(); ++i) {
    check_interrupt();
    if (std::ranges::find(intermediate_layers_, static_cast<std::int64_t>(i)) != intermediate_layers_.end())
      intermediate.push_back(hidden.narrow(1, 0, tokens));
    hidden = recomputed([&layer = local_[i], real](const at::Tensor& x) { return layer(x, real); }, hidden);
  }
  hidden = add_tile_embedding(norm_post_(hidden), aspect_ratio_id);
  for (const VisionLayer& layer : global_) {
    check_interrupt();
    hidden = recomputed([&layer, real](const at::Tensor& x) { return layer(x, real); }, hidden);
  }
  return at::cat({hidden.narrow(1, 0, tokens), at::stack(intermediate, -1).flatten(2)}, 2)
      .view({pictures * tiles_, tokens_, -1});
}

}  // namespace vlmzoo::llama_vision
