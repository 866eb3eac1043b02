#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/export.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/nn/activation.hpp"
#include "vlmzoo/nn/kv_cache.hpp"
#include "vlmzoo/nn/linear.hpp"
#include "vlmzoo/weights.hpp"

/// The pieces that decoders and vision towers share. T is the number of tokens of all sequences laid end to end:
/// sequences of unequal length are never padded.
namespace vlmzoo {

/// x · rsqrt(mean(x²) + eps) · weight over the last dimension, computed in fp32 (Llama's and Qwen's; InternViT's
/// qk-norm).
struct RmsNorm {
  at::Tensor weight;
  double eps = 1e-6;
  VLMZOO_API at::Tensor operator()(const at::Tensor& x) const;
};

struct LayerNorm {
  at::Tensor weight, bias;
  double eps = 1e-6;
  VLMZOO_API at::Tensor operator()(const at::Tensor& x) const;
};

/// Softmax attention over [heads, tokens, head_dim] views; kv heads may be fewer than heads (grouped-query). A batch of
/// equal lengths, [B, heads, tokens, head_dim], is taken without grouping and mask (-> [B, tokens, heads · head_dim]).
/// `causal`: the last query sees every key, the one before it all but one, … Scale: head_dim^-1/2. -> [tokens, heads ·
/// head_dim].
VLMZOO_API at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal);

/// Rotary position embedding in the rotate-half form of transformers; frequencies are fp32 whatever the weights are.
/// Scaling "llama3" as in transformers' modeling_rope_utils (factor, low_freq_factor, high_freq_factor,
/// original_max_position_embeddings).
struct RotaryConfig {
  double theta = 10000.0;
  bool llama3 = false;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 1;
  std::int64_t original_context = 0;

  /// From a text config: `rope_theta` with `rope_scaling`, or `rope_parameters`. Error: kUnsupported for another
  /// scaling.
  static VLMZOO_API RotaryConfig parse(const JsonView& text_config);
};

class VLMZOO_API RotaryEmbedding {
 public:
  RotaryEmbedding() = default;
  RotaryEmbedding(const RotaryConfig& config, std::int64_t head_dim, at::Device device);

  /// cos and sin, fp32 [T, head_dim / 2], of positions int64 [T].
  std::pair<at::Tensor, at::Tensor> tables(const at::Tensor& positions) const;
  /// Rotates x [T, heads, head_dim].
  static at::Tensor rotate(const at::Tensor& x, const std::pair<at::Tensor, at::Tensor>& tables);

 private:
  at::Tensor frequencies_;
};

struct DecoderConfig {
  std::int64_t hidden_size = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate_size = 0,
               vocab_size = 0, max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool qkv_bias = false, tie_word_embeddings = false;
  RotaryConfig rotary;

  /// Reads the keys of a Qwen2 or Llama text config. Error: kConfig for absurd or inconsistent sizes.
  static VLMZOO_API DecoderConfig parse(const JsonView& text_config, bool qkv_bias);
};

/// down(silu(gate(x)) · up(x)), the MLP of Llama and Qwen2.
class VLMZOO_API SwiGlu {
 public:
  SwiGlu() = default;
  /// `prefix` is "….mlp.": {gate,up,down}_proj.
  SwiGlu(Weights& weights, const DecoderConfig& config, const std::string& prefix);
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  Linear gate_up_, down_;
  std::int64_t intermediate_ = 0;
};

/// New tokens of a batch laid end to end: sequence i owns `lengths[i]` rows (0: none).
struct TokenRows {
  std::vector<std::int64_t> lengths;
  std::pair<at::Tensor, at::Tensor> rotary;  ///< of the rows' positions
};

/// Pre-norm decoder layer with grouped-query attention and SwiGLU (Llama, Qwen2).
class VLMZOO_API DecoderLayer {
 public:
  /// `prefix` is "….layers.3.": input_layernorm, self_attn.{q,k,v,o}_proj, post_attention_layernorm,
  /// mlp.{gate,up,down}_proj.
  DecoderLayer(Weights& weights, const DecoderConfig& config, const std::string& prefix, std::int64_t cache_layer);
  at::Tensor operator()(const at::Tensor& hidden, const TokenRows& rows, KvCache& cache) const;

 private:
  at::Tensor attend(const at::Tensor& x, const TokenRows& rows, KvCache& cache) const;
  at::Tensor run(const at::Tensor& hidden, const TokenRows& rows, KvCache& cache) const;

  RmsNorm input_norm_, post_norm_;
  Linear qkv_, output_;
  SwiGlu mlp_;
  std::int64_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, cache_layer_ = 0;
};

/// Rows of real tokens of [B, L] ids, laid end to end, with their positions behind what the cache holds.
struct PackedTokens {
  at::Tensor ids;        ///< int64 [T]
  at::Tensor positions;  ///< int64 [T]
  at::Tensor index;      ///< int64 [T]: row of each token in the flattened [B · L]; undefined when there is no padding
  std::vector<std::int64_t> lengths;
  std::int64_t batch = 0, width = 0;
};
VLMZOO_API PackedTokens pack_tokens(const at::Tensor& input_ids, const at::Tensor& attention_mask,
                                    const KvCache& cache);
/// [T, H] -> [B, L, H] with zeros for padding.
VLMZOO_API at::Tensor unpack_rows(const at::Tensor& rows, const PackedTokens& tokens);
/// [T, H] -> [B, keep, H]: the last `keep` rows of every sequence; zeros where it has fewer.
VLMZOO_API at::Tensor last_rows(const at::Tensor& rows, const PackedTokens& tokens, std::int64_t keep);

}  // namespace vlmzoo
