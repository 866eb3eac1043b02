// FBGEMM's products with 16-bit and 8-bit weights, reached through LibTorch's quantized operators: the wheel's own
// FBGEMM headers need asmjit's, which it lacks. Everything that touches them is in this file.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/quantized/PackedParams.h>
#include <ATen/ops/quantize_per_channel.h>
#include <ATen/ops/zeros.h>

#include <c10/util/Exception.h>

#include <optional>

#include "linear_kernel.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo {
namespace {

using Packed = c10::intrusive_ptr<LinearPackedParamsBase>;

Packed prepack(const char* name, const at::Tensor& weight, const at::Tensor& bias) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<Packed(at::Tensor, std::optional<at::Tensor>)>()
      .call(weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

class Fp16Kernel final : public Linear::Kernel {
 public:
  Fp16Kernel(const at::Tensor& weight, const at::Tensor& bias)
      : Kernel(weight.size(1), weight.size(0)), packed_(prepack("quantized::linear_prepack_fp16", weight, bias)) {}

  at::Tensor run(const at::Tensor& x) const override {
    return packed_->apply_dynamic(x.to(at::kFloat), /*reduce_range=*/false).to(x.scalar_type());
  }
  std::uint64_t bytes() const override {
    return static_cast<std::uint64_t>(2 * in_features() * out_features() + 4 * out_features());
  }
  const char* name() const override { return "fbgemm-fp16"; }

 private:
  Packed packed_;
};

/// Symmetric int8 with a scale per output channel. The operator has one scale for all activations; rows brought to [-1,
/// 1] before, and scaled back after, give every token its own.
class Int8Kernel final : public Linear::Kernel {
 public:
  Int8Kernel(const at::Tensor& weight, at::Tensor bias)
      : Kernel(weight.size(1), weight.size(0)), bias_(std::move(bias)) {
    // LibTorch warns that quantized tensors are deprecated; a user of ours can do nothing about it.
    struct Silent final : c10::WarningHandler {
      void process(const c10::Warning&) override {}
    } handler;
    const c10::WarningUtils::WarningHandlerGuard guard(&handler);
    const at::Tensor scales = weight.abs().amax(1).clamp_min(1e-30).div_(127.0);
    const at::Tensor zero_points = at::zeros({out_features()}, at::kLong);
    packed_ = prepack("quantized::linear_prepack",
                      at::quantize_per_channel(weight, scales, zero_points, /*axis=*/0, at::kQInt8), {});
  }

  at::Tensor run(const at::Tensor& x) const override {
    const at::Tensor wide = x.to(at::kFloat);
    if (wide.size(0) == 0) return wide.new_zeros({0, out_features()}).to(x.scalar_type());
    const at::Tensor largest = wide.abs().amax(1, /*keepdim=*/true).clamp_min_(1e-30);
    // Without VNNI the products are summed in saturating 16 bits: 7-bit activations keep them in range.
    at::Tensor y = packed_->apply_dynamic(wide / largest, /*reduce_range=*/!cpu_features().avx512_vnni);
    y.mul_(largest);
    if (bias_.defined()) y.add_(bias_);
    return y.to(x.scalar_type());
  }
  std::uint64_t bytes() const override {
    return static_cast<std::uint64_t>(in_features() * out_features() + 12 * out_features());
  }
  const char* name() const override { return "fbgemm-int8"; }

 private:
  Packed packed_;
  at::Tensor bias_;
};

}  // namespace

bool has_fbgemm() { return cpu_features().avx2 && cpu_features().fma && cpu_features().f16c; }

std::shared_ptr<const Linear::Kernel> make_fbgemm_fp16(const at::Tensor& weight, const at::Tensor& bias) {
  return std::make_shared<Fp16Kernel>(weight, bias);
}

std::shared_ptr<const Linear::Kernel> make_fbgemm_int8(const at::Tensor& weight, const at::Tensor& bias) {
  return std::make_shared<Int8Kernel>(weight, bias);
}

}  // namespace vlmzoo
