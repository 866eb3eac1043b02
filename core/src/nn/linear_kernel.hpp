#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "vlmzoo/nn/linear.hpp"

namespace vlmzoo {

/// One way to compute y = x Wᵀ + b.
class Linear::Kernel {
 public:
  Kernel(std::int64_t in, std::int64_t out) : in_(in), out_(out) {}
  virtual ~Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  std::int64_t in_features() const { return in_; }
  std::int64_t out_features() const { return out_; }

  virtual at::Tensor run(const at::Tensor& x) const = 0;  ///< x [M, in] contiguous -> [M, out], x's type
  virtual at::Tensor run(const at::Tensor& x, Activation activation) const { return activate(run(x), activation); }
  virtual std::uint64_t bytes() const = 0;
  virtual const char* name() const = 0;
  virtual bool differentiable() const { return false; }

 private:
  std::int64_t in_, out_;
};

/// Memory for weights on the CPU, uninitialised, in huge pages where the system gives some: they load in two thirds of
/// the time. Only for what stays: huge pages for intermediate results cost more than they save.
at::Tensor empty_weight(at::IntArrayRef shape, at::ScalarType type);

/// Builds a kernel from a matrix that arrives some rows at a time.
class RowPacker {
 public:
  static constexpr std::int64_t kRows = 64;  ///< blocks begin at multiples of this

  virtual ~RowPacker() = default;
  /// Rows [first, first + rows.size(0)) of the matrix, fp32 contiguous [rows, in]. False when a value is beyond the
  /// kernel's range: it can't be used then.
  virtual bool add(std::int64_t first, const at::Tensor& rows) = 0;
  virtual std::shared_ptr<const Linear::Kernel> finish(const at::Tensor& bias) = 0;  ///< fp32 [out] or undefined
};

/// 16-bit or 8-bit weights, fp32 activations, on the CPU: FBGEMM's kernels, and our own for int8 without VNNI. Null
/// where the processor has none.
std::unique_ptr<RowPacker> make_fp16_packer(std::int64_t in, std::int64_t out);
std::unique_ptr<RowPacker> make_int8_packer(std::int64_t in, std::int64_t out);
std::unique_ptr<RowPacker> make_packer(Precision precision, std::int64_t in, std::int64_t out);

bool has_bf16_products();  ///< of this processor, by oneDNN
/// oneDNN's kernel for many rows, over a copy of bf16 weights. Error: kUnsupported without bf16 products.
std::shared_ptr<const Linear::Kernel> make_bf16_kernel(const at::Tensor& weight, const at::Tensor& bias);

/// y[m] = x[m] Wᵀ for few rows: every weight is read once, at memory speed. `weight` [out, in] bf16, fp16 or fp32; x
/// [M, in] of any of them, y [M, out] fp32, all contiguous.
void matvec(const at::Tensor& weight, const at::Tensor& x, at::Tensor& y);
inline constexpr std::int64_t kMatvecRows = 8;  ///< above, a matrix product is faster

}  // namespace vlmzoo
