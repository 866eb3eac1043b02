#pragma once

#include <ATen/core/Tensor.h>

namespace vlmzoo {

/// True on processors with AVX2 and without AVX-512.
bool has_fp32_attention();

/// Softmax attention over fp32 views [B, heads, T, d] and [B, kv heads, N, d] (last stride 1), without gradients.
/// `causal` as in attention(). -> [B, T, heads · d].
at::Tensor fp32_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal);

}  // namespace vlmzoo
