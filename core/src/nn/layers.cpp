#include "vlmzoo/nn/layers.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rsqrt.h>

#include "rows_kernels.hpp"

namespace vlmzoo {

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  if (row_kernels_apply(x) && !weight.requires_grad() && weight.scalar_type() == x.scalar_type()) {
    return rms_norm_rows(x.contiguous(), weight, eps);
  }
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
}

}  // namespace vlmzoo
