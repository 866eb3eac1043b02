#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "prompt.hpp"
#include "vlmzoo/nn/kv_cache.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::llama_vision {

/// What one prompt and its answer have seen of their pictures.
struct SeenImages {
  VisibleImages visible;
  std::vector<std::int64_t> ends = {0};  ///< tokens of all pictures before the first, the second, …, after the last
  std::vector<at::Tensor> keys, values;  ///< per cross-attention layer [kv_heads, ends.back(), head_dim]
};

/// Beside the keys and values of self-attention, those of the pictures, computed once.
class CrossCache final : public KvCache {
 public:
  CrossCache(const KvCacheShape& shape, at::ScalarType type, at::Device device, std::size_t cross_layers);

  std::vector<SeenImages> sequences;
};

/// Neighbouring rows of one prompt that see the same pictures.
struct CrossSpan {
  std::size_t sequence = 0;
  std::int64_t row = 0, rows = 0;  ///< among the rows that see any
  std::int64_t key = 0, keys = 0;
};

/// New rows of a batch, sorted by what they see. A row that sees no picture takes nothing from a cross-attention layer.
struct CrossRows {
  std::vector<CrossSpan> spans;
  at::Tensor seeing;  ///< int64: the rows that see any picture; undefined when all do
};

/// Moves `cache` on by the tokens `ids` (on the CPU), sequence i owning `lengths[i]` of them.
CrossRows see_images(const at::Tensor& ids, const std::vector<std::int64_t>& lengths, TokenId image_token,
                     CrossCache& cache);

/// Cross-attention decoder layer: q-norm and k-norm, tanh gates on attention and MLP, no rotary embedding. Source:
/// Meta's llama-models, llama3/multimodal/model.py, CrossAttentionTransformerBlock.
class CrossAttentionLayer {
 public:
  /// `prefix` is "….layers.3.", `index` its place among the layers of this kind.
  CrossAttentionLayer(Weights& weights, const DecoderConfig& config, const std::string& prefix, std::size_t index);

  /// Adds pictures' tokens [n, H] to what `seen` holds of this layer.
  void add_images(const at::Tensor& image_embeds, SeenImages& seen) const;
  /// [T, H] -> [T, H]
  at::Tensor operator()(const at::Tensor& hidden, const CrossRows& rows, const CrossCache& cache) const;

 private:
  at::Tensor attend(const at::Tensor& x, const CrossRows& rows, const CrossCache& cache) const;

  RmsNorm input_norm_, query_norm_, key_norm_, post_norm_;
  Linear query_, key_value_, output_;
  SwiGlu mlp_;
  at::Tensor attention_gate_, mlp_gate_;
  std::int64_t heads_, kv_heads_, head_dim_;
  std::size_t index_;
};

}  // namespace vlmzoo::llama_vision
