#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "head_layout.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo {
namespace {

/// Each tensor draws from a stream of its own, so its values don't depend on which others there are. Only integer
/// steps, one division, one square root and two products: the same bits everywhere.
at::Tensor uniform(const TensorSpec& spec, std::int64_t seed) {
  at::Tensor tensor = at::empty(spec.shape, at::kFloat);
  Random random(Random(static_cast<std::uint64_t>(seed)).next() ^ fnv1a(spec.name));
  const double bound = 1.0 / std::sqrt(static_cast<double>(spec.fan_in));
  float* values = tensor.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    const double unit = static_cast<double>(random.next() >> 40) * 0x1p-24;  // [0, 1)
    values[i] = static_cast<float>((2 * unit - 1) * bound);
  }
  return tensor;
}

at::Tensor initial(const TensorSpec& spec, std::int64_t seed) {
  switch (spec.fill) {
    case TensorSpec::Fill::kUniform:
      return uniform(spec, seed);
    case TensorSpec::Fill::kZero:
      return at::zeros(spec.shape, at::kFloat);
    case TensorSpec::Fill::kOne:
      return at::ones(spec.shape, at::kFloat);
    case TensorSpec::Fill::kCounter:
      return at::zeros(spec.shape, at::kLong);
  }
  throw Error(ErrorCode::kInternal, "fresh head: unknown fill of " + spec.name);
}

}  // namespace

Head fresh_head(const HeadConfig& config, std::int64_t seed) {
  check_head_config(config, "head", ErrorCode::kConfig);
  const std::vector<TensorSpec> layout = head_layout(config);
  check_head_memory(layout);
  std::vector<NamedTensor> tensors;
  for (const TensorSpec& spec : layout) tensors.push_back({spec.name, initial(spec, seed), spec.trainable});
  return Head(config, std::move(tensors));
}

}  // namespace vlmzoo
