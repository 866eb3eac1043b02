#include "vlmzoo/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "metrics_checks.hpp"

namespace vlmzoo {
namespace {

/// What one class's row and column add up to.
struct ClassTotals {
  std::int64_t right = 0, labels = 0, predictions = 0;
};

std::vector<ClassTotals> totals_of(const ConfusionMatrix& confusion) {
  const std::int64_t classes = confusion.classes;
  if (classes < 1 || std::ssize(confusion.counts) / classes != classes || std::ssize(confusion.counts) % classes != 0) {
    bad_metric_input(fmt::format("a confusion matrix of {} classes with {} counts", classes, confusion.counts.size()));
  }
  std::vector<ClassTotals> totals(static_cast<std::size_t>(classes));
  std::int64_t items = 0;
  for (std::int64_t label = 0; label < classes; ++label) {
    totals[label].right = confusion.at(label, label);
    for (std::int64_t predicted = 0; predicted < classes; ++predicted) {
      const std::int64_t count = confusion.at(label, predicted);
      if (count < 0) bad_metric_input(fmt::format("a confusion matrix with the count {}", count));
      totals[label].labels += count;
      totals[predicted].predictions += count;
      items += count;
    }
  }
  if (items == 0) bad_metric_input("a confusion matrix without items");
  return totals;
}

double ratio(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

ClassMetrics metrics_of(const ClassTotals& totals) {
  return {.precision = ratio(totals.right, totals.predictions),
          .recall = ratio(totals.right, totals.labels),
          .f1 = ratio(2 * totals.right, totals.labels + totals.predictions),
          .support = totals.labels};
}

}  // namespace

std::vector<std::int64_t> predicted_classes(const Predictions& predictions) {
  check_predictions(predictions, ScoreKind::kLogits);
  std::vector<std::int64_t> result;
  result.reserve(predictions.labels.size());
  for (auto row = predictions.scores.begin(); row != predictions.scores.end(); row += predictions.classes) {
    result.push_back(std::max_element(row, row + predictions.classes) - row);
  }
  return result;
}

ConfusionMatrix confusion_matrix(std::span<const std::int64_t> labels, std::span<const std::int64_t> predicted,
                                 std::int64_t classes, std::span<const std::uint32_t> rows) {
  constexpr std::int64_t kMostClasses = 10'000;  // 800 MB of counts
  if (classes > kMostClasses)
    bad_metric_input(fmt::format("a confusion matrix of {} classes; at most {}", classes, kMostClasses));
  if (labels.size() != predicted.size()) {
    bad_metric_input(fmt::format("{} labels and {} predictions", labels.size(), predicted.size()));
  }
  check_classes(labels, classes, "labels");
  check_classes(predicted, classes, "predictions");
  ConfusionMatrix confusion{classes, std::vector<std::int64_t>(static_cast<std::size_t>(classes * classes))};
  const auto count = [&](std::size_t item) { ++confusion.counts[labels[item] * classes + predicted[item]]; };
  for (const std::uint32_t row : rows) {
    if (row >= labels.size()) bad_metric_input(fmt::format("row {} of {} items", row, labels.size()));
    count(row);
  }
  for (std::size_t item = 0; rows.empty() && item < labels.size(); ++item) count(item);
  return confusion;
}

std::vector<ClassMetrics> class_metrics(const ConfusionMatrix& confusion) {
  std::vector<ClassMetrics> result;
  for (const ClassTotals& totals : totals_of(confusion)) result.push_back(metrics_of(totals));
  return result;
}

double accuracy(const ConfusionMatrix& confusion) {
  std::int64_t right = 0, items = 0;
  for (const ClassTotals& totals : totals_of(confusion)) {
    right += totals.right;
    items += totals.labels;
  }
  return ratio(right, items);
}

double balanced_accuracy(const ConfusionMatrix& confusion) {
  double sum = 0;
  std::int64_t present = 0;
  for (const ClassTotals& totals : totals_of(confusion)) {
    if (totals.labels == 0) continue;
    sum += metrics_of(totals).recall;
    ++present;
  }
  return sum / static_cast<double>(present);
}

double macro_f1(const ConfusionMatrix& confusion) {
  double sum = 0;
  std::int64_t present = 0;
  for (const ClassTotals& totals : totals_of(confusion)) {
    if (totals.labels == 0 && totals.predictions == 0) continue;
    sum += metrics_of(totals).f1;
    ++present;
  }
  return sum / static_cast<double>(present);
}

double cohen_kappa(const ConfusionMatrix& confusion) {
  const std::vector<ClassTotals> totals = totals_of(confusion);
  double items = 0, right = 0, by_chance = 0;
  for (const ClassTotals& one : totals) {
    items += static_cast<double>(one.labels);
    right += static_cast<double>(one.right);
    by_chance += static_cast<double>(one.labels) * static_cast<double>(one.predictions);
  }
  const double observed = right / items, expected = by_chance / (items * items);
  // Exactly 1 only where both raters gave one and the same class.
  return expected == 1 ? 1 : (observed - expected) / (1 - expected);
}

ClassificationMetrics classification_metrics(const Predictions& probabilities, std::int64_t bins) {
  ClassificationMetrics metrics;
  metrics.n = std::ssize(probabilities.labels);
  metrics.bins = calibration_bins(probabilities, bins);
  metrics.calibration_error = expected_calibration_error(metrics.bins);
  metrics.negative_log_likelihood = negative_log_likelihood(probabilities);
  metrics.confusion = confusion_matrix(probabilities.labels, predicted_classes(probabilities), probabilities.classes);
  metrics.accuracy = accuracy(metrics.confusion);
  metrics.balanced_accuracy = balanced_accuracy(metrics.confusion);
  metrics.macro_f1 = macro_f1(metrics.confusion);
  metrics.per_class = class_metrics(metrics.confusion);
  return metrics;
}

}  // namespace vlmzoo
