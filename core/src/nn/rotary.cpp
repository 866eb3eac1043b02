#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/where.h>
#include <fmt/format.h>

#include <numbers>

#include "rows_kernels.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/nn/layers.hpp"

namespace vlmzoo {

RotaryConfig RotaryConfig::parse(const JsonView& text_config) {
  RotaryConfig config;
  config.theta = text_config.number_or("rope_theta", 10000.0);
  const char* key = text_config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!text_config.has(key)) return config;
  const JsonView scaling = text_config.child(key);
  config.theta = scaling.number_or("rope_theta", config.theta);
  const std::string type = scaling.text_or("rope_type", scaling.text_or("type", "default"));
  // "dynamic" changes nothing up to max_position_embeddings, and longer prompts are refused.
  if (type == "default" || type == "dynamic") return config;
  if (type != "llama3") {
    throw Error(ErrorCode::kUnsupported, fmt::format("{} '{}' is not supported; available: default, dynamic, llama3",
                                                     scaling.at("rope_type"), type));
  }
  config.llama3 = true;
  config.factor = scaling.number("factor");
  config.low_freq_factor = scaling.number("low_freq_factor");
  config.high_freq_factor = scaling.number("high_freq_factor");
  config.original_context = scaling.integer("original_max_position_embeddings", 1, std::int64_t{1} << 30);
  return config;
}

RotaryEmbedding::RotaryEmbedding(const RotaryConfig& config, std::int64_t head_dim, at::Device device) {
  const at::Tensor exponents =
      at::arange(0, head_dim, 2, at::TensorOptions().dtype(at::kLong)).to(at::kFloat) / static_cast<double>(head_dim);
  frequencies_ = at::pow(config.theta, exponents).reciprocal();
  if (config.llama3) {
    const double low = static_cast<double>(config.original_context) / config.low_freq_factor;
    const double high = static_cast<double>(config.original_context) / config.high_freq_factor;
    const at::Tensor wavelengths = frequencies_.reciprocal() * (2 * std::numbers::pi);
    const at::Tensor stretched = at::where(wavelengths > low, frequencies_ / config.factor, frequencies_);
    const at::Tensor smooth =
        (wavelengths.reciprocal() * static_cast<double>(config.original_context) - config.low_freq_factor) /
        (config.high_freq_factor - config.low_freq_factor);
    const at::Tensor blended = (1 - smooth) * stretched / config.factor + smooth * stretched;
    frequencies_ = at::where((wavelengths >= high).logical_and(wavelengths <= low), blended, stretched);
  }
  frequencies_ = frequencies_.to(device);
}

std::pair<at::Tensor, at::Tensor> RotaryEmbedding::tables(const at::Tensor& positions) const {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies_.unsqueeze(0);
  return {at::cos(angles), at::sin(angles)};
}

at::Tensor RotaryEmbedding::rotate(const at::Tensor& x, const std::pair<at::Tensor, at::Tensor>& tables) {
  if (row_kernels_apply(x) && x.stride(2) == 1) return rotate_rows(x, tables.first, tables.second);
  const at::Tensor cos = tables.first.unsqueeze(1), sin = tables.second.unsqueeze(1);
  const auto halves = x.to(at::kFloat).chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1).to(x.scalar_type());
}

}  // namespace vlmzoo
