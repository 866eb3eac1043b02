#include "vlmzoo/training.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo {

double clip_gradients(std::span<const TrainedTensor> tensors, double max_norm) {
  if (!(max_norm > 0)) {
    throw Error(ErrorCode::kConfig, fmt::format("gradient_clip is {}; expected a positive norm", max_norm));
  }
  const at::NoGradGuard no_graph;
  std::vector<at::Tensor> gradients, norms;
  for (const TrainedTensor& tensor : tensors) {
    if (!tensor.value.grad().defined()) continue;
    gradients.push_back(tensor.value.grad());
    norms.push_back(at::linalg_vector_norm(gradients.back(), 2).to(at::kDouble));
  }
  if (gradients.empty()) return 0;
  const double norm = at::linalg_vector_norm(at::stack(norms), 2).item<double>();
  const double scale = max_norm / (norm + 1e-6);
  if (std::isfinite(norm) && scale < 1) at::_foreach_mul_(gradients, scale);
  return norm;
}

double learning_rate_at(const Schedule& schedule, std::int64_t step) {
  if (!(schedule.learning_rate >= 0) || !std::isfinite(schedule.learning_rate) || schedule.warmup_steps < 0 ||
      schedule.total_steps < 1 || step < 0) {
    throw Error(
        ErrorCode::kConfig,
        fmt::format("learning rate {}, {} warm-up steps of {}, step {}; expected 0 or more, and at least one step",
                    schedule.learning_rate, schedule.warmup_steps, schedule.total_steps, step));
  }
  if (step < schedule.warmup_steps) {
    return schedule.learning_rate * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
  }
  const auto steps = static_cast<double>(std::max<std::int64_t>(1, schedule.total_steps - schedule.warmup_steps));
  const double t = std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / steps);
  switch (schedule.decay) {
    case Schedule::Decay::kCosine:
      return schedule.learning_rate * (1 + std::cos(std::numbers::pi * t)) / 2;
    case Schedule::Decay::kLinear:
      return schedule.learning_rate * (1 - t);
    case Schedule::Decay::kConstant:
      break;
  }
  return schedule.learning_rate;
}

Ema::Ema(double decay, std::vector<NamedTensor> tensors)
    : decay_(decay), tensors_(std::move(tensors)), updates_(at::zeros({}, at::kLong)) {
  if (!(decay >= 0 && decay < 1)) {
    throw Error(ErrorCode::kConfig, fmt::format("the decay of the moving average is {}; expected 0 <= it < 1", decay));
  }
  for (const NamedTensor& named : tensors_)
    averages_.push_back({"ema." + named.name, named.tensor.detach().clone(), false});
}

void Ema::update() {
  if (swapped_) throw Error(ErrorCode::kInternal, "moving average: updated while its values were exchanged");
  const at::NoGradGuard no_graph;
  updates_.add_(1);
  const auto n = static_cast<double>(updates_.item<std::int64_t>());
  const double decay = std::min(decay_, (1 + n) / (10 + n));
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor& value = tensors_[i].tensor;
    at::Tensor& average = averages_[i].tensor;
    if (value.is_floating_point()) {
      average.lerp_(value, 1 - decay);
    } else {
      average.copy_(value);
    }
  }
}

void Ema::swap() {
  const at::NoGradGuard no_graph;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor value = tensors_[i].tensor.clone();
    tensors_[i].tensor.copy_(averages_[i].tensor);
    averages_[i].tensor.copy_(value);
  }
  swapped_ = !swapped_;
}

std::vector<NamedTensor> Ema::state() const {
  if (swapped_)
    throw Error(ErrorCode::kInternal, "moving average: its state was asked for while values were exchanged");
  std::vector<NamedTensor> state = averages_;
  state.push_back({"ema.updates", updates_, false});
  return state;
}

bool EarlyStopping::add(double metric) {
  const bool first = best_round < 0;
  const bool better =
      std::isfinite(metric) && (first || (higher_is_better ? metric > best + min_delta : metric < best - min_delta));
  if (better) {
    best = metric;
    best_round = round;
  }
  ++round;
  return better;
}

}  // namespace vlmzoo
