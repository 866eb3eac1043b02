#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/nn/activation.hpp"

namespace vlmzoo {

/// y = x Wᵀ + b behind one face; layers don't know the kernel. Kernels: *plain* (a weight tensor in the activations'
/// type, differentiable; bf16 rows are read by a matrix-vector kernel of our own while decoding), *bf16 for many rows*
/// (oneDNN's order of weights, for vision), *fp16* (FBGEMM: 16-bit weights, fp32 activations) and *int8* (FBGEMM
/// or our own: per-output-channel weights, per-token activations). Immutable and cheap to copy; concurrent calls are
/// fine.
class VLMZOO_API Linear {
 public:
  Linear() = default;

  /// `weight` [out, in] fp32 (read only during the call, except by fp32) and `bias` [out] or undefined, packed for
  /// `precision`. Weights beyond fp16's range stay fp32 under kFp16 (the kernel would clip them without a word).
  static Linear pack(const at::Tensor& weight, const at::Tensor& bias, Precision precision);

  /// The plain kernel over an existing tensor of any floating type, shared, not copied.
  static Linear plain(const at::Tensor& weight, const at::Tensor& bias);

  /// `weight` [out, in] bf16, copied into the order that oneDNN multiplies in, and `bias` [out] bf16 or undefined: many
  /// rows take a tenth less time than with plain(), a single one takes longer. Error: kUnsupported on a processor
  /// without bf16 products.
  static Linear for_many_rows(const at::Tensor& weight, const at::Tensor& bias);

  /// x [..., in] -> [..., out], in x's type.
  at::Tensor operator()(const at::Tensor& x) const;
  /// The same with an activation after it, in one pass where the kernel can.
  at::Tensor operator()(const at::Tensor& x, Activation activation) const;

  std::int64_t in_features() const;
  std::int64_t out_features() const;
  std::uint64_t bytes() const;      ///< that a product reads: weights, scales, bias
  const char* kernel_name() const;  ///< "fp32", "bf16", "onednn-bf16", "fbgemm-fp16", "fbgemm-int8", "avx2-int8"
  explicit operator bool() const { return kernel_ != nullptr; }

  class Kernel;
  explicit Linear(std::shared_ptr<const Kernel> kernel) : kernel_(std::move(kernel)) {}

 private:
  at::Tensor rows(const at::Tensor& x) const;  ///< checked, contiguous [M, in]
  at::Tensor shaped(const at::Tensor& y, const at::Tensor& x) const;

  std::shared_ptr<const Kernel> kernel_;
};

}  // namespace vlmzoo
