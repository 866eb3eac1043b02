#include "cross_attention.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>

namespace vlmzoo::llama_vision {

CrossCache::CrossCache(const KvCacheShape& shape, at::ScalarType type, at::Device device, std::size_t cross_layers)
    : KvCache(shape, type, device), sequences(static_cast<std::size_t>(shape.batch)) {
  for (SeenImages& sequence : sequences) {
    sequence.keys.resize(cross_layers);
    sequence.values.resize(cross_layers);
  }
}

CrossRows see_images(const at::Tensor& ids, const std::vector<std::int64_t>& lengths, TokenId image_token,
                     CrossCache& cache) {
  CrossRows result;
  std::vector<std::int64_t> seeing;
  const std::int64_t* next = ids.const_data_ptr<std::int64_t>();
  std::int64_t row = 0;
  for (std::size_t sequence = 0; sequence < lengths.size(); ++sequence) {
    SeenImages& seen = cache.sequences[sequence];
    for (const std::int64_t end = row + lengths[sequence]; row < end; ++row) {
      seen.visible.step(*next++ == image_token);
      const std::int64_t key = seen.ends.at(static_cast<std::size_t>(seen.visible.begin()));
      const std::int64_t keys = seen.ends.at(static_cast<std::size_t>(seen.visible.end())) - key;
      if (keys == 0) continue;
      const bool same = !result.spans.empty() && result.spans.back().sequence == sequence &&
                        result.spans.back().key == key && result.spans.back().keys == keys;
      if (!same) result.spans.push_back({sequence, static_cast<std::int64_t>(seeing.size()), 0, key, keys});
      ++result.spans.back().rows;
      seeing.push_back(row);
    }
  }
  if (static_cast<std::int64_t>(seeing.size()) < row) result.seeing = at::tensor(seeing, at::kLong).to(ids.device());
  return result;
}

CrossAttentionLayer::CrossAttentionLayer(Weights& weights, const DecoderConfig& config, const std::string& prefix,
                                         std::size_t index)
    : heads_(config.heads), kv_heads_(config.kv_heads), head_dim_(config.head_dim), index_(index) {
  const Role role = Role::kLanguage;
  const std::int64_t hidden = config.hidden_size, q = heads_ * head_dim_, kv = kv_heads_ * head_dim_;
  const std::string attention = prefix + "cross_attn.";
  const auto norm = [&](const std::string& name, std::int64_t width) -> RmsNorm {
    return {weights.tensor(role, name + ".weight", {width}), config.rms_norm_eps};
  };
  input_norm_ = norm(prefix + "input_layernorm", hidden);
  query_ = weights.linear(role, {attention + "q_proj"}, hidden, {q}, /*bias=*/false);
  key_value_ = weights.linear(role, {attention + "k_proj", attention + "v_proj"}, hidden, {kv, kv}, /*bias=*/false);
  output_ = weights.linear(role, {attention + "o_proj"}, q, {hidden}, /*bias=*/false);
  query_norm_ = norm(attention + "q_norm", head_dim_);
  key_norm_ = norm(attention + "k_norm", head_dim_);
  attention_gate_ = weights.tensor(role, prefix + "cross_attn_attn_gate", {1});
  post_norm_ = norm(prefix + "post_attention_layernorm", hidden);
  mlp_ = SwiGlu(weights, config, prefix + "mlp.");
  mlp_gate_ = weights.tensor(role, prefix + "cross_attn_mlp_gate", {1});
}

void CrossAttentionLayer::add_images(const at::Tensor& image_embeds, SeenImages& seen) const {
  const at::Tensor key_value = key_value_(image_embeds).view({-1, 2 * kv_heads_, head_dim_});
  const auto append = [](at::Tensor& held, const at::Tensor& added) {
    const at::Tensor by_head = added.transpose(0, 1).contiguous();
    held = held.defined() ? at::cat({held, by_head}, 1) : by_head;
  };
  append(seen.keys[index_], key_norm_(key_value.narrow(1, 0, kv_heads_)));
  append(seen.values[index_], key_value.narrow(1, kv_heads_, kv_heads_));
}

at::Tensor CrossAttentionLayer::attend(const at::Tensor& x, const CrossRows& rows, const CrossCache& cache) const {
  const at::Tensor query = query_norm_(query_(x).view({-1, heads_, head_dim_}));
  std::vector<at::Tensor> mixed;
  for (const CrossSpan& span : rows.spans) {
    const SeenImages& seen = cache.sequences[span.sequence];
    mixed.push_back(attention(query.narrow(0, span.row, span.rows).transpose(0, 1),
                              seen.keys[index_].narrow(1, span.key, span.keys),
                              seen.values[index_].narrow(1, span.key, span.keys), /*causal=*/false));
  }
  return output_(mixed.size() == 1 ? mixed.front() : at::cat(mixed, 0));
}

at::Tensor CrossAttentionLayer::operator()(const at::Tensor& hidden, const CrossRows& rows,
                                           const CrossCache& cache) const {
  if (rows.spans.empty()) return hidden;
  const at::Tensor x = rows.seeing.defined() ? hidden.index_select(0, rows.seeing) : hidden;
  const at::Tensor attended = at::addcmul(x, attend(input_norm_(x), rows, cache), at::tanh(attention_gate_));
  const at::Tensor result = at::addcmul(attended, mlp_(post_norm_(attended)), at::tanh(mlp_gate_));
  return rows.seeing.defined() ? hidden.index_copy(0, rows.seeing, result) : result;
}

}  // namespace vlmzoo::llama_vision
