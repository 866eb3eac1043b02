#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include "rows_kernels.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/nn/recompute.hpp"

namespace vlmzoo {

DecoderConfig DecoderConfig::parse(const JsonView& text, bool qkv_bias) {
  constexpr std::int64_t kWidest = 1 << 17;
  DecoderConfig config;
  config.hidden_size = text.integer("hidden_size", 1, kWidest);
  config.layers = text.integer("num_hidden_layers", 1, 1024);
  config.heads = text.integer("num_attention_heads", 1, 4096);
  config.kv_heads = text.integer_or("num_key_value_heads", 1, 4096, config.heads);
  if (config.heads % config.kv_heads != 0) {
    throw Error(ErrorCode::kConfig, fmt::format("{} is {}, which does not divide num_attention_heads {}",
                                                text.at("num_key_value_heads"), config.kv_heads, config.heads));
  }
  if (!text.has("head_dim") && config.hidden_size % config.heads != 0) {
    throw Error(ErrorCode::kConfig, fmt::format("{} is {}, which does not divide hidden_size {}",
                                                text.at("num_attention_heads"), config.heads, config.hidden_size));
  }
  config.head_dim = text.integer_or("head_dim", 2, 4096, config.hidden_size / config.heads);
  if (config.head_dim % 2 != 0) {
    throw Error(ErrorCode::kConfig,
                fmt::format("{} is {}; rotary embeddings need an even one", text.at("head_dim"), config.head_dim));
  }
  config.intermediate_size = text.integer("intermediate_size", 1, 4 * kWidest);
  config.vocab_size = text.integer("vocab_size", 1, std::int64_t{1} << 22);
  config.max_position_embeddings = text.integer_or("max_position_embeddings", 1, std::int64_t{1} << 24, 32768);
  config.rms_norm_eps = text.number_or("rms_norm_eps", 1e-6);
  config.tie_word_embeddings = text.boolean_or("tie_word_embeddings", false);
  config.qkv_bias = qkv_bias;
  if (const std::string act = text.text_or("hidden_act", "silu"); act != "silu") {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} is '{}'; this decoder is built with silu", text.at("hidden_act"), act));
  }
  config.rotary = RotaryConfig::parse(text);
  return config;
}

SwiGlu::SwiGlu(Weights& weights, const DecoderConfig& config, const std::string& prefix)
    : intermediate_(config.intermediate_size) {
  const Role role = Role::kLanguage;
  gate_up_ = weights.linear(role, {prefix + "gate_proj", prefix + "up_proj"}, config.hidden_size,
                            {intermediate_, intermediate_}, /*bias=*/false);
  down_ = weights.linear(role, {prefix + "down_proj"}, intermediate_, {config.hidden_size}, /*bias=*/false);
}

at::Tensor SwiGlu::operator()(const at::Tensor& x) const {
  const at::Tensor gate_up = gate_up_(x);
  if (row_kernels_apply(gate_up)) return down_(swiglu_rows(gate_up));
  return down_(at::silu(gate_up.narrow(1, 0, intermediate_)) * gate_up.narrow(1, intermediate_, intermediate_));
}

DecoderLayer::DecoderLayer(Weights& weights, const DecoderConfig& config, const std::string& prefix,
                           std::int64_t cache_layer)
    : heads_(config.heads), kv_heads_(config.kv_heads), head_dim_(config.head_dim), cache_layer_(cache_layer) {
  const Role role = Role::kLanguage;
  const std::int64_t hidden = config.hidden_size, q = heads_ * head_dim_, kv = kv_heads_ * head_dim_;
  input_norm_ = {weights.tensor(role, prefix + "input_layernorm.weight", {hidden}), config.rms_norm_eps};
  const std::string attn = prefix + "self_attn.";
  qkv_ =
      weights.linear(role, {attn + "q_proj", attn + "k_proj", attn + "v_proj"}, hidden, {q, kv, kv}, config.qkv_bias);
  output_ = weights.linear(role, {attn + "o_proj"}, q, {hidden}, /*bias=*/false);
  post_norm_ = {weights.tensor(role, prefix + "post_attention_layernorm.weight", {hidden}), config.rms_norm_eps};
  mlp_ = SwiGlu(weights, config, prefix + "mlp.");
}

at::Tensor DecoderLayer::attend(const at::Tensor& x, const TokenRows& rows, KvCache& cache) const {
  const std::int64_t tokens = x.size(0);
  const at::Tensor qkv = qkv_(x).view({tokens, heads_ + 2 * kv_heads_, head_dim_});
  const at::Tensor query = RotaryEmbedding::rotate(qkv.narrow(1, 0, heads_), rows.rotary);
  const at::Tensor key = RotaryEmbedding::rotate(qkv.narrow(1, heads_, kv_heads_), rows.rotary);
  const at::Tensor value = qkv.narrow(1, heads_ + kv_heads_, kv_heads_);
  std::vector<at::Tensor> mixed;
  std::int64_t row = 0;
  for (std::size_t sequence = 0; sequence < rows.lengths.size(); ++sequence) {
    const std::int64_t count = rows.lengths[sequence];
    if (count == 0) continue;
    const auto [keys, values] = cache.append(cache_layer_, static_cast<std::int64_t>(sequence),
                                             key.narrow(0, row, count), value.narrow(0, row, count));
    mixed.push_back(attention(query.narrow(0, row, count).transpose(0, 1), keys, values, /*causal=*/true));
    row += count;
  }
  if (mixed.empty()) return at::zeros_like(x);
  return output_(mixed.size() == 1 ? mixed.front() : at::cat(mixed, 0));
}

at::Tensor DecoderLayer::run(const at::Tensor& hidden, const TokenRows& rows, KvCache& cache) const {
  const at::Tensor attended = hidden + attend(input_norm_(hidden), rows, cache);
  return attended + mlp_(post_norm_(attended));
}

at::Tensor DecoderLayer::operator()(const at::Tensor& hidden, const TokenRows& rows, KvCache& cache) const {
  if (!recompute_wanted()) return run(hidden, rows, cache);
  const auto again = [this, rows, &cache, lengths = cache.lengths()](const at::Tensor& x) {
    const KvCache::Rewound place(cache, lengths);
    return run(x, rows, cache);
  };
  return recomputed(again, hidden);
}

}  // namespace vlmzoo
