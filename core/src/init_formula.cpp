// Weights from a formula, so that any language can make the same file; docs/init_formula.md is its definition.
#include <cmath>
#include <cstdint>
#include <span>
#include <string>

#include "vlmzoo/random.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo {
namespace {

struct Range {
  double center, amplitude;
};

bool ends_with(const std::string& text, std::string_view tail) { return std::string_view(text).ends_with(tail); }

Range range_of(const std::string& name, std::span<const std::int64_t> shape) {
  if (shape.size() >= 2 && shape[0] == 1) return {0.0, 0.5};
  if (shape.size() >= 2) {
    double fan_in = 1;
    for (const std::int64_t size : shape.subspan(1)) fan_in *= static_cast<double>(size);
    return {0.0, std::sqrt(3.0 / fan_in)};
  }
  if (ends_with(name, ".weight")) return {1.0, 0.25};
  if (ends_with(name, ".bias")) return {0.0, 0.125};
  return {0.5, 0.25};
}

}  // namespace

void fill_formula(const std::string& name, std::span<const std::int64_t> shape, std::int64_t seed, std::uint64_t first,
                  std::span<float> out) {
  const Range range = range_of(name, shape);
  Random random(fnv1a(name) + static_cast<std::uint64_t>(seed) + first * Random::kStep);
  for (float& value : out) {
    const auto bits = static_cast<std::int64_t>(random.next() >> 40) - (std::int64_t{1} << 23);
    value = static_cast<float>(range.center + range.amplitude * (static_cast<double>(bits) / 8388608.0));
  }
}

}  // namespace vlmzoo
