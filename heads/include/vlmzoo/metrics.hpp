#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

/// How good predictions are, without a tensor in sight: plain C++, the same numbers on every machine. n items, K
/// classes. Empty or ill-formed data is Error(kMismatch), a setting out of range Error(kConfig); no function returns a
/// NaN or an infinity. Functions may run concurrently.
namespace vlmzoo {

struct Interval {
  double low = 0, high = 0;
};

/// Scores of n items in K classes with what is right.
struct Predictions {
  std::int64_t classes = 0;          ///< K, at least 1
  std::vector<double> scores;        ///< [n, K] row by row: probabilities or logits, as the function says
  std::vector<std::int64_t> labels;  ///< n numbers in [0, K)
};

/// The class with the highest score of each item, the first of equals; n numbers. For probabilities and logits.
std::vector<std::int64_t> predicted_classes(const Predictions& predictions);

/// How often each class was taken for each.
struct ConfusionMatrix {
  std::int64_t classes = 0;          ///< K
  std::vector<std::int64_t> counts;  ///< [K, K]: row = label, column = prediction

  std::int64_t at(std::int64_t label, std::int64_t predicted) const { return counts[label * classes + predicted]; }
};

/// Of n labels and n predictions in [0, K), K at most 10,000. `rows`: of these items alone, repetitions counted (as
/// bootstrap_interval draws them); empty: of all.
ConfusionMatrix confusion_matrix(std::span<const std::int64_t> labels, std::span<const std::int64_t> predicted,
                                 std::int64_t classes, std::span<const std::uint32_t> rows = {});

/// Numbers of one class. What has nothing to divide by is 0, as in scikit-learn with zero_division=0.
struct ClassMetrics {
  double precision = 0, recall = 0, f1 = 0;
  std::int64_t support = 0;  ///< items with this label
};

/// K entries.
std::vector<ClassMetrics> class_metrics(const ConfusionMatrix& confusion);

/// Share of items that are right.
double accuracy(const ConfusionMatrix& confusion);
/// Mean recall of the classes that have items (scikit-learn's balanced_accuracy_score).
double balanced_accuracy(const ConfusionMatrix& confusion);
/// Mean F1 of the classes that have items or predictions (scikit-learn's f1_score(average="macro")).
double macro_f1(const ConfusionMatrix& confusion);
/// Agreement beyond chance of two raters: rows one's classes, columns the other's. In [-1, 1]; 1 where both always give
/// the same single class. Source: Cohen 1960.
double cohen_kappa(const ConfusionMatrix& confusion);

/// Mean of -ln(probability of the label); probabilities are clipped at 2^-52 from below, as scikit-learn's log_loss
/// does.
double negative_log_likelihood(const Predictions& probabilities);

/// Items whose highest probability lies in (low, high]; 0 belongs to the first bin.
struct CalibrationBin {
  double low = 0, high = 0;
  std::int64_t count = 0;
  double confidence = 0, accuracy = 0;  ///< means over the bin's items; 0 in an empty bin
};

/// `bins` equal widths of [0, 1], 1 to 10,000.
std::vector<CalibrationBin> calibration_bins(const Predictions& probabilities, std::int64_t bins = 15);
/// Expected calibration error: Σ count / n · |accuracy - confidence|. Source: Guo et al. 2017, arXiv:1706.04599.
double expected_calibration_error(std::span<const CalibrationBin> bins);

/// All of the above in one pass over the data.
struct ClassificationMetrics {
  std::int64_t n = 0;
  double accuracy = 0, balanced_accuracy = 0, macro_f1 = 0, negative_log_likelihood = 0, calibration_error = 0;
  std::vector<ClassMetrics> per_class;
  ConfusionMatrix confusion;
  std::vector<CalibrationBin> bins;
};
ClassificationMetrics classification_metrics(const Predictions& probabilities, std::int64_t bins = 15);

inline constexpr double kMinTemperature = 0.05, kMaxTemperature = 20;

/// The T in [kMinTemperature, kMaxTemperature] whose softmax(logits / T) has the smallest negative log-likelihood, of
/// logits of validation items (Guo et al. 2017). 1 where no T in this range is a minimum because ever sharper ones are
/// better (no item wrong, or K = 1); kMaxTemperature where ever flatter ones are.
double fit_temperature(const Predictions& logits);

/// softmax(logits / temperature), with the same labels. Error: kConfig unless temperature is positive and finite.
Predictions calibrated(const Predictions& logits, double temperature = 1);

struct BootstrapOptions {
  std::int64_t resamples = 10'000;  ///< 1 to 10^7
  std::uint64_t seed = 0;
  double level = 0.95;  ///< in (0, 1)
};

/// Percentile interval of `statistic` over resamples of n items: it gets n rows in [0, n), drawn with repetition, and
/// returns a finite number. The rows of a seed are the same everywhere; n at most 2^32 - 1. Error: kMismatch when the
/// statistic isn't finite.
Interval bootstrap_interval(std::int64_t n, const std::function<double(std::span<const std::uint32_t> rows)>& statistic,
                            const BootstrapOptions& options = {});

/// The same for the share of items that are right (`correct`: n numbers, 0 or 1). Where all or none are right every
/// resample is alike and the interval a point: exact_interval still says what n allows.
Interval accuracy_interval(std::span<const std::uint8_t> correct, const BootstrapOptions& options = {});

/// Clopper-Pearson interval of a share: `right` of n items, 0 <= right <= n. Source: Boost.Math.
Interval exact_interval(std::int64_t right, std::int64_t n, double level = 0.95);

/// The `percent`-th percentile (0 to 100) of unsorted finite values, interpolated linearly (numpy's default).
double percentile(std::span<const double> values, double percent);

/// In the unit of the values.
struct LatencySummary {
  std::int64_t n = 0;
  double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;
};
LatencySummary latency_summary(std::span<const double> values);

}  // namespace vlmzoo
