#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "llama_vision_config.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/weights.hpp"

/// Symbols: M tiles per picture, P tokens per tile (CLS and patches), C width, T tokens of a picture with padding.
namespace vlmzoo::llama_vision {

/// x + attention(norm(x)), then + mlp(norm(x)); in global layers both are scaled by tanh of a gate. Source: Meta's
/// llama-models, llama3/multimodal/model.py, ImageTransformerBlock.
class VisionLayer {
 public:
  VisionLayer(Weights& weights, const VisionConfig& vision, const std::string& prefix, bool gated);
  /// [I, T, C] -> [I, T, C] of I pictures. The first `real` tokens see all, the others, padding, see only the first:
  /// what the reference's mask comes to.
  at::Tensor operator()(const at::Tensor& x, std::int64_t real) const;

 private:
  at::Tensor attend(const at::Tensor& x, std::int64_t real) const;

  LayerNorm norm1_, norm2_;
  Linear qkv_, output_, fc1_, fc2_;
  at::Tensor attention_gate_, mlp_gate_;  // undefined in local layers
  std::int64_t heads_;
  Activation activation_;
  bool attention_in_bf16_;
};

/// An embedding per tile of every aspect ratio, scaled by tanh of a gate.
class TileEmbedding {
 public:
  TileEmbedding() = default;
  TileEmbedding(Weights& weights, const VisionConfig& vision, const std::string& prefix);
  at::Tensor operator()(std::int64_t aspect_ratio_id) const;  ///< -> [M, 1, C]

 private:
  at::Tensor table_, gate_;
  std::int64_t width_ = 0;
};

/// Mllama's vision tower. Source: VisionEncoder there; transformers 4.45.2, MllamaVisionModel.
class VisionTower {
 public:
  VisionTower(Weights& weights, const LlamaVisionConfig& config);

  /// I pictures of one grid: pixels [I, M, 3, S, S], of which the first `tiles` are used, and the id of the grid -> [I
  /// · M, P, C · (1 + k)]: the final state, then k intermediate ones, interleaved channel by channel.
  at::Tensor operator()(const at::Tensor& pixel_values, std::int64_t tiles, std::int64_t aspect_ratio_id) const;

  std::int64_t pictures_at_once() const { return pictures_at_once_; }  ///< that are worth going together

 private:
  at::Tensor embed(const at::Tensor& pixel_values, std::int64_t aspect_ratio_id) const;
  at::Tensor add_tile_embedding(const at::Tensor& hidden, std::int64_t aspect_ratio_id) const;

  std::int64_t patch_size_, tiles_, tokens_, padding_, width_, pictures_at_once_ = 1;
  std::vector<std::int64_t> intermediate_layers_;
  at::ScalarType type_;
  at::Tensor patch_weight_, class_embedding_, position_gate_, position_embedding_, tile_position_embedding_;
  TileEmbedding pre_tile_, post_tile_;
  LayerNorm norm_pre_, norm_post_;
  std::vector<VisionLayer> local_, global_;
};

}  // namespace vlmzoo::llama_vision
