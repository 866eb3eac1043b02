#include "vlmzoo/losses.hpp"

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "head_layout.hpp"
#include "loss_checks.hpp"

namespace vlmzoo {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw Error(ErrorCode::kMismatch, "classification loss: " + message);
}

void check_labels(const at::Tensor& labels) {
  if (!labels.defined() || labels.scalar_type() != at::kLong || labels.dim() != 1 || labels.numel() == 0) {
    fail(fmt::format("labels are {}; expected int64 [I] of at least one picture",
                     labels.defined() ? shape_of(labels) : "undefined"));
  }
}

/// fp32 [K] on the labels' device, or undefined when all weigh the same.
at::Tensor weights_of(const ClassificationLoss& loss, const at::Tensor& labels) {
  if (loss.class_weights.empty()) return {};
  for (const double weight : loss.class_weights) {
    if (!(weight > 0) || !std::isfinite(weight)) {
      throw Error(ErrorCode::kConfig, fmt::format("a class weight is {}; expected a positive number", weight));
    }
  }
  return at::tensor(loss.class_weights, at::kDouble).to(labels.device(), at::kFloat);
}

}  // namespace

void check_smoothing(double label_smoothing) {
  if (!(label_smoothing >= 0 && label_smoothing < 1)) {
    throw Error(ErrorCode::kConfig, fmt::format("label_smoothing is {}; expected 0 <= it < 1", label_smoothing));
  }
}

void check_normalizer(double normalizer) {
  if (!(normalizer >= 0) || !std::isfinite(normalizer)) {
    throw Error(ErrorCode::kConfig, fmt::format("a loss is divided by {}; expected a positive number, or 0 for the "
                                                "batch's own weight",
                                                normalizer));
  }
}

std::vector<double> balanced_class_weights(std::span<const std::int64_t> pictures_per_class) {
  const auto pictures =
      static_cast<double>(std::accumulate(pictures_per_class.begin(), pictures_per_class.end(), std::int64_t{0}));
  std::vector<double> weights;
  for (const std::int64_t count : pictures_per_class) {
    if (count < 1) {
      fail(fmt::format("class {} has {} pictures; balanced class weights need at least one of each", weights.size(),
                       count));
    }
    weights.push_back(pictures / (static_cast<double>(pictures_per_class.size()) * static_cast<double>(count)));
  }
  return weights;
}

double label_weight(const at::Tensor& labels, const ClassificationLoss& loss) {
  check_labels(labels);
  const at::Tensor weights = weights_of(loss, labels);
  if (!weights.defined()) return static_cast<double>(labels.numel());
  const auto classes = std::ssize(loss.class_weights);
  if (labels.min().item<std::int64_t>() < 0 || labels.max().item<std::int64_t>() >= classes) {
    fail(fmt::format("a label is outside 0 to {}, the classes that have a weight", classes - 1));
  }
  return weights.to(at::kDouble).index_select(0, labels).sum().item<double>();
}

at::Tensor classification_loss(const at::Tensor& logits, const at::Tensor& labels, const ClassificationLoss& loss,
                               double normalizer) {
  check_smoothing(loss.label_smoothing);
  check_normalizer(normalizer);
  check_labels(labels);
  if (logits.dim() != 2 || logits.size(0) != labels.size(0) || !logits.is_floating_point()) {
    fail(fmt::format("logits are {}; expected [{}, K]", shape_of(logits), labels.size(0)));
  }
  const std::int64_t classes = logits.size(1);
  if (!loss.class_weights.empty() && std::ssize(loss.class_weights) != classes) {
    fail(fmt::format("{} class weights for {} classes", loss.class_weights.size(), classes));
  }
  const std::int64_t lowest = labels.min().item<std::int64_t>(), highest = labels.max().item<std::int64_t>();
  if (lowest < 0 || highest >= classes) {
    fail(fmt::format("the label {}; expected 0 to {}", lowest < 0 ? lowest : highest, classes - 1));
  }
  const at::Tensor sum = at::cross_entropy_loss(logits.to(at::kFloat), labels, weights_of(loss, labels),
                                                at::Reduction::Sum, /*ignore_index=*/-100, loss.label_smoothing);
  return sum.div(normalizer > 0 ? normalizer : label_weight(labels, loss));
}

}  // namespace vlmzoo
