#pragma once

#include <ATen/core/Tensor.h>

namespace vlmzoo {

/// True where the row kernels below may run: CPU, fp32 or bf16, nothing to differentiate.
bool row_kernels_apply(const at::Tensor& x);

/// One pass each over rows in their own type, fp32 inside; they replace chains of small ATen calls whose overhead would
/// dominate decoding.
at::Tensor rms_norm_rows(const at::Tensor& x, const at::Tensor& weight, double eps);  ///< x [T, C] contiguous
at::Tensor rotate_rows(const at::Tensor& x, const at::Tensor& cos,
                       const at::Tensor& sin);      ///< x [T, heads, d], any row stride
at::Tensor swiglu_rows(const at::Tensor& gate_up);  ///< [T, 2·I] -> silu(first half) · second half

}  // namespace vlmzoo
