#pragma once

#include "toy_head.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <unistd.h>

#include <filesystem>
#include <limits>
#include <vector>

#include "vlmzoo/json.hpp"

/// What the tests of losses and optimizers share: tests/goldens/training.json, written by make_training_goldens.py.
namespace vlmzoo::test {

inline const Json& training_goldens() {
  static const Json json =
      read_json(std::filesystem::path(__FILE__).parent_path().parent_path() / "goldens" / "training.json");
  return json;
}

/// Largest difference over the largest expected value.
inline double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor reference = expected.detach().flatten().to(at::kDouble);
  const at::Tensor values = got.detach().flatten().to(at::kDouble);
  if (values.numel() != reference.numel()) return std::numeric_limits<double>::infinity();
  return ((values - reference).abs().max() / reference.abs().max()).item<double>();
}

inline double relative_error(const at::Tensor& got, const Json& expected) {
  return relative_error(got, at::tensor(expected.get<std::vector<double>>(), at::kDouble));
}

}  // namespace vlmzoo::test
