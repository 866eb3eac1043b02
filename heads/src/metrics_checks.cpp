#include "metrics_checks.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace vlmzoo {
namespace {

/// How far a row of fp32 or bf16 softmax may be from 1.
constexpr double kSumTolerance = 1e-2;
/// Beyond fp32's range, far from where sums of products overflow.
constexpr double kLargestScore = 1e100;

void check_row(std::span<const double> row, std::size_t item, ScoreKind kind) {
  double sum = 0;
  for (const double score : row) {
    if (!(std::abs(score) <= kLargestScore))
      bad_metric_input(fmt::format("item {} has the score {}; expected at most 1e100", item, score));
    if (kind == ScoreKind::kProbabilities && (score < 0 || score > 1)) {
      bad_metric_input(fmt::format("item {} has the probability {}; expected 0 to 1", item, score));
    }
    sum += score;
  }
  if (kind == ScoreKind::kProbabilities && std::abs(sum - 1) > kSumTolerance) {
    bad_metric_input(fmt::format("the probabilities of item {} add up to {}; expected 1", item, sum));
  }
}

}  // namespace

void bad_metric_input(const std::string& message) { throw Error(ErrorCode::kMismatch, "metrics: " + message); }

void check_classes(std::span<const std::int64_t> values, std::int64_t classes, const char* what) {
  if (classes < 1) bad_metric_input(fmt::format("{} classes; expected at least 1", classes));
  if (values.empty()) bad_metric_input(fmt::format("no {}; expected at least one item", what));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= classes) {
      bad_metric_input(fmt::format("{}: item {} has the class {}; expected 0 to {}", what, i, values[i], classes - 1));
    }
  }
}

void check_predictions(const Predictions& predictions, ScoreKind kind) {
  check_classes(predictions.labels, predictions.classes, "labels");
  const auto classes = static_cast<std::size_t>(predictions.classes);
  const std::size_t items = predictions.labels.size();
  if (predictions.scores.size() % items != 0 || predictions.scores.size() / items != classes) {
    bad_metric_input(
        fmt::format("{} scores; expected {} items of {} classes", predictions.scores.size(), items, classes));
  }
  for (std::size_t i = 0; i < items; ++i) {
    check_row(std::span(predictions.scores).subspan(i * classes, classes), i, kind);
  }
}

void check_flags(std::span<const std::uint8_t> flags, const char* what) {
  if (flags.empty()) bad_metric_input(fmt::format("no {}; expected at least one item", what));
  for (std::size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] > 1) bad_metric_input(fmt::format("{}: item {} is {}; expected 0 or 1", what, i, flags[i]));
  }
}

void check_level(double level) {
  if (!(level > 0 && level < 1)) {
    throw Error(ErrorCode::kConfig, fmt::format("the level of an interval is {}; expected 0 < level < 1", level));
  }
}

void check_bootstrap(std::int64_t n, const BootstrapOptions& options) {
  check_level(options.level);
  constexpr std::int64_t kMostResamples = 10'000'000;
  if (options.resamples < 1 || options.resamples > kMostResamples) {
    throw Error(ErrorCode::kConfig,
                fmt::format("{} bootstrap resamples; expected 1 to {}", options.resamples, kMostResamples));
  }
  if (n < 1 || n > std::numeric_limits<std::uint32_t>::max()) {
    bad_metric_input(fmt::format("a bootstrap of {} items; expected 1 to 2^32 - 1", n));
  }
}

}  // namespace vlmzoo
