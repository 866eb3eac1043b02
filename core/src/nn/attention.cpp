#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <optional>

#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo {
namespace {

/// [queries, keys], true where a query may look: the last query sees every key.
at::Tensor causal_mask(std::int64_t queries, std::int64_t keys, at::Device device) {
  return at::ones({queries, keys}, at::TensorOptions().dtype(at::kBool).device(device)).tril(keys - queries);
}

/// Over a whole tile LibTorch's bf16 attention takes longer than fp32's, casts included, unless AMX does its small
/// products.
bool faster_in_fp32(const at::Tensor& query) {
  return query.is_cpu() && query.scalar_type() == at::kBFloat16 && !cpu_features().amx_bf16;
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  if (query.dim() == 4) {  // a batch of equal lengths without grouping: vision tiles
    const auto widened = [wide = faster_in_fp32(query)](const at::Tensor& t) { return wide ? t.to(at::kFloat) : t; };
    const at::Tensor mixed = at::scaled_dot_product_attention(widened(query), widened(key), widened(value));
    return mixed.to(query.scalar_type())
        .transpose(1, 2)
        .reshape({query.size(0), query.size(2), query.size(1) * query.size(3)});
  }
  const std::int64_t heads = query.size(0), tokens = query.size(1), width = query.size(2);
  const std::int64_t kv_heads = key.size(0), keys = key.size(1), group = heads / kv_heads;
  if (tokens == 1) {
    // One query per head: the heads of a group become the queries of their key head, which is then read once.
    const at::Tensor grouped = query.reshape({1, kv_heads, group, width});
    return at::scaled_dot_product_attention(grouped, key.unsqueeze(0), value.unsqueeze(0)).reshape({1, heads * width});
  }
  // Key heads are repeated by stride, not by copying.
  const auto repeated = [&](const at::Tensor& t) { return t.unsqueeze(1).expand({kv_heads, group, keys, width}); };
  std::optional<at::Tensor> mask;
  if (causal && keys != tokens) mask = causal_mask(tokens, keys, query.device());
  const at::Tensor mixed = at::scaled_dot_product_attention(query.reshape({kv_heads, group, tokens, width}),
                                                            repeated(key), repeated(value), mask,
                                                            /*dropout_p=*/0.0, /*is_causal=*/causal && keys == tokens);
  return mixed.permute({2, 0, 1, 3}).reshape({tokens, heads * width});
}

}  // namespace vlmzoo
