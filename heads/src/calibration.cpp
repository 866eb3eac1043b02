#include <fmt/format.h>

#include <algorithm>
#include <boost/math/tools/toms748_solve.hpp>
#include <cmath>
#include <limits>

#include "metrics_checks.hpp"
#include "vlmzoo/metrics.hpp"

namespace vlmzoo {
namespace {

/// out = softmax(sharpness · row)
void softmax(std::span<const double> row, double sharpness, std::span<double> out) {
  const double highest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (std::size_t k = 0; k < row.size(); ++k) sum += out[k] = std::exp(sharpness * (row[k] - highest));
  for (double& value : out) value /= sum;
}

/// How the summed negative log-likelihood of softmax(sharpness · logits) grows with the sharpness: Σ (Σ_k p_k z_k -
/// z_y). It never falls (the likelihood's logarithm is concave), so it has one root or none.
double slope(const Predictions& logits, double sharpness, std::span<double> probabilities) {
  const auto classes = static_cast<std::size_t>(logits.classes);
  double sum = 0;
  for (std::size_t i = 0; i < logits.labels.size(); ++i) {
    const std::span<const double> row = std::span(logits.scores).subspan(i * classes, classes);
    softmax(row, sharpness, probabilities);
    // Differences to the label's logit: a common offset of a row must not cost digits.
    for (std::size_t k = 0; k < classes; ++k) sum += probabilities[k] * (row[k] - row[logits.labels[i]]);
  }
  return sum;
}

}  // namespace

double negative_log_likelihood(const Predictions& probabilities) {
  check_predictions(probabilities, ScoreKind::kProbabilities);
  double sum = 0;
  for (std::size_t i = 0; i < probabilities.labels.size(); ++i) {
    const double p = probabilities.scores[i * probabilities.classes + probabilities.labels[i]];
    sum -= std::log(std::max(p, std::numeric_limits<double>::epsilon()));
  }
  return sum / static_cast<double>(probabilities.labels.size());
}

std::vector<CalibrationBin> calibration_bins(const Predictions& probabilities, std::int64_t bins) {
  constexpr std::int64_t kMostBins = 10'000;
  if (bins < 1 || bins > kMostBins) {
    throw Error(ErrorCode::kConfig, fmt::format("{} calibration bins; expected 1 to {}", bins, kMostBins));
  }
  check_predictions(probabilities, ScoreKind::kProbabilities);
  const auto count = static_cast<double>(bins);
  std::vector<CalibrationBin> result(static_cast<std::size_t>(bins));
  for (std::int64_t bin = 0; bin < bins; ++bin) {
    result[bin].low = static_cast<double>(bin) / count;
    result[bin].high = static_cast<double>(bin + 1) / count;
  }
  const std::vector<std::int64_t> predicted = predicted_classes(probabilities);
  for (std::size_t i = 0; i < predicted.size(); ++i) {
    const double confidence = probabilities.scores[i * probabilities.classes + predicted[i]];
    // The first bin whose upper edge isn't below: what is on an edge, up to rounding, stays below it.
    const auto bin = std::lower_bound(result.begin(), result.end() - 1, confidence,
                                      [](const CalibrationBin& b, double value) { return b.high < value; });
    ++bin->count;
    bin->confidence += confidence;
    bin->accuracy += predicted[i] == probabilities.labels[i] ? 1 : 0;
  }
  for (CalibrationBin& bin : result) {
    if (bin.count == 0) continue;
    bin.confidence /= static_cast<double>(bin.count);
    bin.accuracy /= static_cast<double>(bin.count);
  }
  return result;
}

double expected_calibration_error(std::span<const CalibrationBin> bins) {
  double sum = 0, items = 0;
  for (const CalibrationBin& bin : bins) {
    sum += static_cast<double>(bin.count) * std::abs(bin.accuracy - bin.confidence);
    items += static_cast<double>(bin.count);
  }
  if (items == 0) bad_metric_input("calibration bins without items");
  return sum / items;
}

double fit_temperature(const Predictions& logits) {
  check_predictions(logits, ScoreKind::kLogits);
  std::vector<double> buffer(static_cast<std::size_t>(logits.classes));
  // Over the logarithm, so that the root has the same relative precision everywhere.
  const auto slope_at = [&](double log_sharpness) { return slope(logits, std::exp(log_sharpness), buffer); };
  const double flattest = -std::log(kMaxTemperature), sharpest = -std::log(kMinTemperature);
  const double low = slope_at(flattest), high = slope_at(sharpest);
  if (high <= 0) return 1;
  if (low >= 0) return kMaxTemperature;
  std::uintmax_t iterations = 100;
  const auto [left, right] = boost::math::tools::toms748_solve(
      slope_at, flattest, sharpest, low, high, boost::math::tools::eps_tolerance<double>(45), iterations);
  return std::exp(-(left + right) / 2);
}

Predictions calibrated(const Predictions& logits, double temperature) {
  if (!(temperature > 0) || !std::isfinite(temperature)) {
    throw Error(ErrorCode::kConfig, fmt::format("the temperature is {}; expected a positive number", temperature));
  }
  check_predictions(logits, ScoreKind::kLogits);
  const auto classes = static_cast<std::size_t>(logits.classes);
  Predictions result = logits;
  for (std::size_t i = 0; i < logits.scores.size(); i += classes) {
    softmax(std::span(logits.scores).subspan(i, classes), 1 / temperature,
            std::span(result.scores).subspan(i, classes));
  }
  return result;
}

}  // namespace vlmzoo
