#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/GradMode.h>

#include <optional>

#include "attention_bf16.hpp"
#include "attention_fp32.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo {
namespace {

/// [queries, keys], true where a query may look: the last query sees every key.
at::Tensor causal_mask(std::int64_t queries, std::int64_t keys, at::Device device) {
  return at::ones({queries, keys}, at::TensorOptions().dtype(at::kBool).device(device)).tril(keys - queries);
}

using OwnAttention = at::Tensor (*)(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool);

/// Our own kernel for these [B, heads, T, d], or null: it takes enough queries to be worth blocks of them.
OwnAttention own_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) {
  constexpr std::int64_t kFewest = 16;
  const at::ScalarType type = query.scalar_type();
  if (!query.is_cpu() || query.size(2) < kFewest) return nullptr;
  for (const at::Tensor* x : {&query, &key, &value}) {
    if (x->scalar_type() != type || x->stride(3) != 1 || x->numel() == 0) return nullptr;
    if (c10::GradMode::is_enabled() && x->requires_grad()) return nullptr;
  }
  if (type == at::kBFloat16 && has_bf16_attention() && query.size(3) % 2 == 0) return bf16_attention;
  return type == at::kFloat && has_fp32_attention() ? fp32_attention : nullptr;
}

/// Over a whole tile LibTorch's bf16 attention takes longer than fp32's, casts included, unless AMX does its small
/// products.
bool faster_in_fp32(const at::Tensor& query) {
  return query.is_cpu() && query.scalar_type() == at::kBFloat16 && !cpu_features().amx_bf16;
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  if (query.dim() == 4) {  // a batch of equal lengths without grouping: vision tiles
    if (const OwnAttention own = own_attention(query, key, value)) return own(query, key, value, /*causal=*/false);
    const auto widened = [wide = faster_in_fp32(query)](const at::Tensor& t) { return wide ? t.to(at::kFloat) : t; };
    const at::Tensor queries = widened(query), keys = widened(key), values = widened(value);
    if (const OwnAttention own = own_attention(queries, keys, values))
      return own(queries, keys, values, /*causal=*/false).to(query.scalar_type());
    const at::Tensor mixed = at::scaled_dot_product_attention(queries, keys, values);
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
  const at::Tensor queries = query.unsqueeze(0), held_keys = key.unsqueeze(0), held_values = value.unsqueeze(0);
  if (const OwnAttention own = own_attention(queries, held_keys, held_values))
    return own(queries, held_keys, held_values, causal).squeeze(0);
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
