#pragma once

#include <ATen/core/Tensor.h>

#include <variant>
#include <vector>

#include "internvl_config.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::internvl {

/// LayerNorm, or RMSNorm in the 6B variant.
using Norm = std::variant<LayerNorm, RmsNorm>;

/// x + ls1 · attention(norm1(x)), then + ls2 · mlp(norm2(x)). Source: modeling_intern_vit.py, InternVisionEncoderLayer.
class VisionLayer {
 public:
  VisionLayer(Weights& weights, const InternVlConfig& config, const std::string& prefix);
  at::Tensor operator()(const at::Tensor& x) const;  ///< [N, P, C] -> [N, P, C]

 private:
  at::Tensor attend(const at::Tensor& x) const;

  Norm norm1_, norm2_;
  at::Tensor scale1_, scale2_;
  RmsNorm query_norm_, key_norm_;
  Linear qkv_, output_, fc1_, fc2_;
  std::int64_t heads_;
  bool qk_norm_;
  Activation activation_;
  bool attention_in_bf16_;
};

/// InternViT: pixels -> hidden states with the CLS token first.
class VisionTower {
 public:
  VisionTower(Weights& weights, const InternVlConfig& config);
  at::Tensor operator()(const at::Tensor& pixel_values) const;  ///< [N, 3, S, S] -> [N, 1 + patches, C]

 private:
  at::Tensor embed(const at::Tensor& pixel_values) const;
  at::Tensor encode(const at::Tensor& pixel_values) const;

  at::Tensor class_embedding_, position_embedding_, patch_weight_, patch_bias_;
  std::vector<VisionLayer> layers_;
  LayerNorm final_norm_;
  std::int64_t patch_size_, tiles_at_once_;
  at::ScalarType type_;
};

/// Pixel shuffle and the two-layer MLP: [N, 1 + patches, C] -> [N · tokens, H]. Source: modeling_internvl_chat.py,
/// extract_feature.
class Connector {
 public:
  Connector(Weights& weights, const InternVlConfig& config);
  at::Tensor operator()(const at::Tensor& hidden) const;
  explicit operator bool() const { return static_cast<bool>(in_); }

 private:
  LayerNorm norm_;
  Linear in_, out_;
  Activation activation_;
  std::int64_t downsample_;
  at::ScalarType type_;
};

}  // namespace vlmzoo::internvl
