#include "vlmzoo/nn/linear.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include "linear_kernel.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

/// Products over a weight tensor as it is. Types may differ from the activations' (tied embeddings in 16 bits).
class PlainKernel final : public Linear::Kernel {
 public:
  using Kernel::run;

  PlainKernel(at::Tensor weight, at::Tensor bias)
      : Kernel(weight.size(1), weight.size(0)), weight_(std::move(weight)), bias_(std::move(bias)) {}

  at::Tensor run(const at::Tensor& x) const override {
    const bool differentiable = c10::GradMode::is_enabled() && (x.requires_grad() || weight_.requires_grad());
    const bool doubles = weight_.scalar_type() == at::kDouble || x.scalar_type() == at::kDouble;
    if (weight_.is_cpu() && !differentiable && !doubles && x.size(0) <= kMatvecRows && weight_.is_contiguous())
      return few_rows(x);
    if (weight_.scalar_type() == x.scalar_type()) return at::linear(x, weight_, bias_);
    return in_row_blocks(x);
  }

  bool differentiable() const override { return true; }
  std::uint64_t bytes() const override { return weight_.nbytes() + (bias_.defined() ? bias_.nbytes() : 0); }
  const char* name() const override {
    return weight_.scalar_type() == at::kFloat ? "fp32" : weight_.scalar_type() == at::kBFloat16 ? "bf16" : "fp16";
  }

 private:
  at::Tensor few_rows(const at::Tensor& x) const {
    at::Tensor y = at::empty({x.size(0), out_features()}, x.options().dtype(at::kFloat));
    matvec(weight_, x, y);
    if (bias_.defined()) y.add_(bias_);
    return y.to(x.scalar_type());
  }

  /// Converts a block of rows at a time: the matrix in another type never exists whole.
  at::Tensor in_row_blocks(const at::Tensor& x) const {
    constexpr std::int64_t kRows = 4096;
    std::vector<at::Tensor> parts;
    for (std::int64_t row = 0; row < out_features(); row += kRows) {
      const std::int64_t count = std::min(kRows, out_features() - row);
      const at::Tensor bias = bias_.defined() ? bias_.narrow(0, row, count).to(x.scalar_type()) : at::Tensor();
      parts.push_back(at::linear(x, weight_.narrow(0, row, count).to(x.scalar_type()), bias));
    }
    return at::cat(parts, -1);
  }

  at::Tensor weight_, bias_;
};

}  // namespace

at::Tensor empty_weight(at::IntArrayRef shape, at::ScalarType type) {
  at::Tensor weight = at::empty(shape, type);
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kPage = 4096;
  constexpr std::size_t kWorthIt = std::size_t{4} << 20;
  if (weight.nbytes() >= kWorthIt) {
    const auto begin = reinterpret_cast<std::uintptr_t>(weight.mutable_data_ptr()), end = begin + weight.nbytes();
    const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage;
    ::madvise(reinterpret_cast<void*>(first), (end - first) / kPage * kPage, MADV_HUGEPAGE);  // a wish, no more
  }
#endif
  return weight;
}

std::unique_ptr<RowPacker> make_packer(Precision precision, std::int64_t in, std::int64_t out) {
  return precision == Precision::kInt8 ? make_int8_packer(in, out) : make_fp16_packer(in, out);
}

Linear Linear::pack(const at::Tensor& weight, const at::Tensor& bias, Precision precision) {
  if (weight.dim() != 2) throw Error(ErrorCode::kInternal, "a Linear needs a matrix");
  const auto bias_as = [&](at::ScalarType type) { return bias.defined() ? bias.to(type) : at::Tensor(); };
  switch (precision) {
    case Precision::kBf16:
      return plain(weight.to(at::kBFloat16), bias_as(at::kBFloat16));
    case Precision::kFp16:
      if (!weight.is_cpu()) return plain(weight.to(at::kHalf), bias_as(at::kHalf));
      [[fallthrough]];
    case Precision::kInt8:
      if (const auto packer = weight.is_cpu() ? make_packer(precision, weight.size(1), weight.size(0)) : nullptr) {
        if (packer->add(0, weight.to(at::kFloat).contiguous())) return Linear(packer->finish(bias_as(at::kFloat)));
      } else if (precision == Precision::kInt8) {
        throw Error(
            ErrorCode::kUnsupported,
            "precision int8 needs an x86-64 processor with AVX2, and matrices below 2^31 elements; use fp32 or bf16 "
            "here");
      }
      return plain(weight.to(at::kFloat), bias_as(at::kFloat));
    default:
      return plain(weight.to(at::kFloat), bias_as(at::kFloat));
  }
}

Linear Linear::plain(const at::Tensor& weight, const at::Tensor& bias) {
  return Linear(std::make_shared<PlainKernel>(weight, bias));
}

Linear Linear::for_many_rows(const at::Tensor& weight, const at::Tensor& bias) {
  return Linear(make_bf16_kernel(weight, bias));
}

at::Tensor Linear::rows(const at::Tensor& x) const {
  if (x.size(-1) != in_features()) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("a linear layer of {} inputs got rows of {}", in_features(), x.size(-1)));
  }
  if (!kernel_->differentiable() && c10::GradMode::is_enabled() && x.requires_grad()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("gradients don't pass {} weights; create the model to be trained (CreateOptions.trainable)",
                            kernel_name()));
  }
  return x.dim() == 2 ? x.contiguous() : x.reshape({-1, in_features()}).contiguous();
}

at::Tensor Linear::shaped(const at::Tensor& y, const at::Tensor& x) const {
  if (x.dim() == 2) return y;
  std::vector<std::int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = out_features();
  return y.view(shape);
}

at::Tensor Linear::operator()(const at::Tensor& x) const { return shaped(kernel_->run(rows(x)), x); }
at::Tensor Linear::operator()(const at::Tensor& x, Activation activation) const {
  return shaped(kernel_->run(rows(x), activation), x);
}

std::int64_t Linear::in_features() const { return kernel_->in_features(); }
std::int64_t Linear::out_features() const { return kernel_->out_features(); }
std::uint64_t Linear::bytes() const { return kernel_->bytes(); }
const char* Linear::kernel_name() const { return kernel_->name(); }

}  // namespace vlmzoo
