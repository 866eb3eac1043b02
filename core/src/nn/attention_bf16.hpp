#pragma once

#include <ATen/core/Tensor.h>

namespace vlmzoo {

/// True on processors that multiply bf16 but lack AMX, where LibTorch's own attention takes twice as long in either
/// type.
bool has_bf16_attention();

/// Softmax attention over bf16 views [B, heads, T, d] and [B, kv heads, N, d] (d even, last stride 1), without
/// gradients. Products are summed in fp32, weights of values rounded to bf16. `causal` as in attention().
/// -> [B, T, heads · d].
at::Tensor bf16_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal);

}  // namespace vlmzoo
