#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <string>
#include <vector>

#include "vlmzoo/weights.hpp"

namespace vlmzoo::test {

/// fp32 numbers spread evenly over [-limit, limit), the same in every run; another `name`, others.
inline at::Tensor filled(const std::string& name, const std::vector<std::int64_t>& shape, double limit = 1) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  const std::vector<std::int64_t> row = {1, tensor.numel()};
  fill_formula(name, row, /*seed=*/0, 0, {tensor.mutable_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())});
  return tensor.mul_(2 * limit);
}

/// max |got − expected| / max |expected|, in double.
inline double relative_difference(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor wide = expected.to(at::kDouble);
  return (got.to(at::kDouble) - wide).abs().max().item<double>() / std::max(wide.abs().max().item<double>(), 1e-30);
}

}  // namespace vlmzoo::test
