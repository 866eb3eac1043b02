#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string_view>

#include "head_layout.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {
namespace {

/// Step and output function of splitmix64 (Steele, Lea, Flood 2014).
std::uint64_t splitmix64(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15U;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

/// Each tensor draws from a stream of its own, so its values don't depend on which others there are. Only integer
/// steps, one division, one square root and two products: the same bits everywhere.
at::Tensor uniform(const TensorSpec& spec, std::int64_t seed) {
  at::Tensor tensor = at::empty(spec.shape, at::kFloat);
  std::uint64_t state = static_cast<std::uint64_t>(seed);
  state = splitmix64(state) ^ fnv1a(spec.name);
  const double bound = 1.0 / std::sqrt(static_cast<double>(spec.fan_in));
  float* values = tensor.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    const double unit = static_cast<double>(splitmix64(state) >> 40) * 0x1p-24;  // [0, 1)
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
