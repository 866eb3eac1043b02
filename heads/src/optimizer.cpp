#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/nn/one_thread_each.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo {
namespace {

/// Numbers of a matrix whose products are worth several threads. Muon takes smaller ones side by side, one thread each.
constexpr std::int64_t kFillsThreads = std::int64_t{1} << 19;

void check_config(const OptimizerConfig& config) {
  const auto check = [](const char* name, double value, double low, double below) {
    if (!(value >= low && value < below)) {
      throw Error(ErrorCode::kConfig, fmt::format("{} is {}; expected {} <= it < {}", name, value, low, below));
    }
  };
  check("weight_decay", config.weight_decay, 0, 1e6);
  check("beta1", config.beta1, 0, 1);
  check("beta2", config.beta2, 0, 1);
  check("momentum", config.momentum, 0, 1);
  check("epsilon", config.epsilon, 1e-30, 1);
}

void check_tensor(const TrainedTensor& tensor) {
  const auto fail = [&](const std::string& message) {
    throw Error(ErrorCode::kMismatch, fmt::format("optimizer: {} {}", tensor.name, message));
  };
  const at::Tensor& value = tensor.value;
  if (!value.defined() || value.scalar_type() != at::kFloat || !value.is_contiguous() || !value.is_leaf()) {
    fail("is no contiguous fp32 leaf");
  }
  if (tensor.matrices.empty()) return;
  const bool positive = *std::min_element(tensor.matrices.begin(), tensor.matrices.end()) > 0;
  const std::int64_t rows = std::accumulate(tensor.matrices.begin(), tensor.matrices.end(), std::int64_t{0});
  if (value.dim() != 2 || !positive || rows != value.size(0)) {
    fail(fmt::format("is {}; expected matrices of {} rows in all", shape_of(value), rows));
  }
}

/// The nearest matrix with orthogonal rows or columns, roughly: the singular values end up between 0.7 and 1.2. In
/// fp32: bf16 products are slow on most processors, and the matrices are small.
at::Tensor orthogonalized(const at::Tensor& update) {
  constexpr std::array kCoefficients = {3.4445, -4.7750, 2.0315};
  constexpr int kSteps = 5;
  constexpr double kSmallestNorm = 1e-7;
  const auto [a, b, c] = kCoefficients;
  const bool tall = update.size(0) > update.size(1);
  at::Tensor x = tall ? update.t() : update;
  x = x.div(x.norm().clamp_min(kSmallestNorm));
  for (int i = 0; i < kSteps; ++i) {
    const at::Tensor gram = at::mm(x, x.t());
    x = at::addmm(x, at::addmm(gram, gram, gram, b, c), x, a);
  }
  return tall ? x.t() : x;
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, std::vector<TrainedTensor> tensors)
    : config_(config), tensors_(std::move(tensors)) {
  check_config(config_);
  std::set<std::string> names;
  for (const TrainedTensor& tensor : tensors_) {
    if (!names.insert(tensor.name).second) {
      throw Error(ErrorCode::kMismatch, fmt::format("optimizer: two tensors are named {}", tensor.name));
    }
    check_tensor(tensor);
    Slot slot;
    slot.muon = config_.muon && !tensor.matrices.empty();
    slot.weight_decay = tensor.value.dim() >= 2 || config_.decay_vectors ? config_.weight_decay : 0;
    const at::Tensor value = tensor.value.detach();
    if (slot.muon) {
      slot.momentum_buffer = at::zeros_like(value);
    } else {
      slot.exp_avg = at::zeros_like(value);
      slot.exp_avg_sq = at::zeros_like(value);
      slot.step = at::zeros({}, value.options());
    }
    slots_.push_back(std::move(slot));
  }
}

void Optimizer::step(double learning_rate) {
  if (!(learning_rate >= 0) || !std::isfinite(learning_rate)) {
    throw Error(ErrorCode::kConfig, fmt::format("the learning rate is {}; expected 0 or more", learning_rate));
  }
  const at::NoGradGuard no_graph;
  step_adamw(learning_rate);
  std::vector<std::size_t> small;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (!slots_[i].muon || !tensors_[i].value.grad().defined()) continue;
    if (tensors_[i].value.numel() < kFillsThreads) {
      small.push_back(i);
    } else {
      step_muon(tensors_[i], slots_[i], learning_rate);
    }
  }
  std::ranges::stable_sort(small, std::greater(), [&](std::size_t i) { return tensors_[i].value.numel(); });
  one_thread_each(std::ssize(small), [&](std::int64_t i) {
    const at::NoGradGuard none;
    const std::size_t index = small[static_cast<std::size_t>(i)];
    step_muon(tensors_[index], slots_[index], learning_rate);
  });
}

void Optimizer::step_adamw(double learning_rate) {
  for (const double weight_decay : {config_.weight_decay, 0.0}) {
    std::vector<at::Tensor> values, gradients, means, squares, steps;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const Slot& slot = slots_[i];
      const at::Tensor& value = tensors_[i].value;
      if (slot.muon || slot.weight_decay != weight_decay || !value.grad().defined()) continue;
      slot.step.add_(1);
      values.push_back(value);
      gradients.push_back(value.grad().contiguous());
      means.push_back(slot.exp_avg);
      squares.push_back(slot.exp_avg_sq);
      steps.push_back(slot.step);
    }
    if (!values.empty()) {
      at::_fused_adamw_(values, gradients, means, squares, /*max_exp_avg_sqs=*/{}, steps, learning_rate, config_.beta1,
                        config_.beta2, weight_decay, config_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
    }
    if (config_.weight_decay == 0) break;  // both rounds are the same
  }
}

void Optimizer::step_muon(const TrainedTensor& tensor, const Slot& slot, double learning_rate) const {
  const at::Tensor gradient = tensor.value.grad();
  slot.momentum_buffer.lerp_(gradient, 1 - config_.momentum);
  const at::Tensor update = gradient.lerp(slot.momentum_buffer, config_.momentum);
  at::Tensor value = tensor.value;
  value.mul_(1 - learning_rate * slot.weight_decay);
  std::int64_t row = 0;
  for (const std::int64_t rows : tensor.matrices) {
    const auto larger_side = static_cast<double>(std::max(rows, value.size(1)));
    value.narrow(0, row, rows)
        .add_(orthogonalized(update.narrow(0, row, rows)), -learning_rate * 0.2 * std::sqrt(larger_side));
    row += rows;
  }
}

void Optimizer::zero_gradients() {
  for (const TrainedTensor& tensor : tensors_) tensor.value.mutable_grad() = at::Tensor();
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> state;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Slot& slot = slots_[i];
    const std::string& name = tensors_[i].name;
    if (slot.muon) {
      state.push_back({name + ".momentum_buffer", slot.momentum_buffer, false});
      continue;
    }
    state.push_back({name + ".exp_avg", slot.exp_avg, false});
    state.push_back({name + ".exp_avg_sq", slot.exp_avg_sq, false});
    state.push_back({name + ".step", slot.step, false});
  }
  return state;
}

}  // namespace vlmzoo
