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
  virtual std::uint64_t bytes() const = 0;
  virtual const char* name() const = 0;

 private:
  std::int64_t in_, out_;
};

/// FBGEMM's kernels (fp32 activations). `weight` fp32 [out, in] contiguous, on the CPU; `bias` fp32 or undefined.
std::shared_ptr<const Linear::Kernel> make_fbgemm_fp16(const at::Tensor& weight, const at::Tensor& bias);
std::shared_ptr<const Linear::Kernel> make_fbgemm_int8(const at::Tensor& weight, const at::Tensor& bias);
bool has_fbgemm();

/// y[m] = x[m] Wᵀ for few rows: every weight is read once, at memory speed. `weight` [out, in] bf16, fp16 or fp32; x
/// [M, in] and y [M, out] fp32, all contiguous.
void matvec(const at::Tensor& weight, const at::Tensor& x, at::Tensor& y);
inline constexpr std::int64_t kMatvecRows = 8;  ///< above, a matrix product is faster

}  // namespace vlmzoo
