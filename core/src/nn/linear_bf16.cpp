// oneDNN's product over bf16 weights in its own order. LibTorch reaches it by operators that only its compiler calls;
// it would reorder plain weights in every call.
#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdlib>
#include <optional>
#include <string_view>

#include "linear_kernel.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo {
namespace {

/// Names of an activation in oneDNN: `kind`, and which formula.
struct Fused {
  std::string_view kind = "none", formula = "none";

  static Fused of(Activation activation) {
    switch (activation) {
      case Activation::kGelu:
        return {"gelu", "none"};
      case Activation::kGeluTanh:
        return {"gelu", "tanh"};
      case Activation::kSilu:
        return {"swish"};
      case Activation::kRelu:
        return {"relu"};
      case Activation::kTanh:
        return {"tanh"};
    }
    return {};
  }
};

at::Tensor reordered(const at::Tensor& weight) {
  constexpr std::int64_t kRows = 1024;  // the order is chosen for about as many
  static const auto reorder = c10::Dispatcher::singleton()
                                  .findSchemaOrThrow("mkldnn::_reorder_linear_weight", "")
                                  .typed<at::Tensor(const at::Tensor&, std::optional<c10::SymInt>)>();
  return reorder.call(weight, kRows);
}

at::Tensor multiply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Fused& fused) {
  using Scalars = c10::List<std::optional<at::Scalar>>;
  static const auto product =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
          .typed<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                            Scalars, std::optional<std::string_view>)>();
  return product.call(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, fused.kind, Scalars(),
                      fused.formula);
}

class Bf16Kernel final : public Linear::Kernel {
 public:
  Bf16Kernel(const at::Tensor& weight, at::Tensor bias)
      : Kernel(weight.size(1), weight.size(0)), weight_(reordered(weight)), bias_(std::move(bias)) {}

  at::Tensor run(const at::Tensor& x) const override { return times(x, {}); }
  at::Tensor run(const at::Tensor& x, Activation activation) const override { return times(x, Fused::of(activation)); }
  std::uint64_t bytes() const override {
    const std::int64_t numbers = in_features() * out_features() + (bias_.defined() ? out_features() : 0);
    return static_cast<std::uint64_t>(numbers) * 2;
  }
  const char* name() const override { return "onednn-bf16"; }

 private:
  at::Tensor times(const at::Tensor& x, const Fused& fused) const {
    return multiply(x.to(at::kBFloat16), weight_, bias_, fused).to(x.scalar_type());
  }

  at::Tensor weight_, bias_;
};

}  // namespace

bool has_bf16_products() {
  // LibTorch's operators throw where oneDNN is held back from AVX-512 or switched off.
  static const bool limited =
      std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr || std::getenv("DNNL_MAX_CPU_ISA") != nullptr;
  const bool has = cpu_features().avx512_bf16 || cpu_features().amx_bf16;
  return has && !limited && at::globalContext().userEnabledMkldnn();
}

std::shared_ptr<const Linear::Kernel> make_bf16_kernel(const at::Tensor& weight, const at::Tensor& bias) {
  if (!has_bf16_products())
    throw Error(ErrorCode::kUnsupported,
                "bf16 weights in oneDNN's order need a processor with avx512_bf16 or AMX, and oneDNN without "
                "ONEDNN_MAX_CPU_ISA");
  return std::make_shared<Bf16Kernel>(weight, bias);
}

}  // namespace vlmzoo
