#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/metrics.hpp"

/// May one model replace another? Statistics of two models on the same items; errors as in metrics.hpp. The difference
/// is candidate minus baseline, in shares of right answers.
namespace vlmzoo {

/// n items by who was right.
struct PairedCounts {
  std::int64_t both = 0, baseline_only = 0, candidate_only = 0, neither = 0;

  std::int64_t n() const { return both + baseline_only + candidate_only + neither; }
  double baseline_accuracy() const { return share(both + baseline_only); }
  double candidate_accuracy() const { return share(both + candidate_only); }
  double difference() const { return share(candidate_only - baseline_only); }
  /// Of all items; 0 without any.
  double share(std::int64_t items) const {
    return n() == 0 ? 0 : static_cast<double>(items) / static_cast<double>(n());
  }
};

/// From n numbers each, 0 or 1, of the same items in the same order.
PairedCounts paired_counts(std::span<const std::uint8_t> baseline_correct,
                           std::span<const std::uint8_t> candidate_correct);

/// Interval of the difference: Wald's after ½ was added to each of the four counts, inside [-1, 1]. Source: Agresti and
/// Min, Statistics in Medicine 24 (2005) 729-740; R: PropCIs::diffpropci.mp.
Interval agresti_min_interval(const PairedCounts& counts, double level = 0.95);

/// Percentile interval of the difference over resamples of items; n at most 2^32 - 1.
Interval paired_bootstrap_interval(const PairedCounts& counts, const BootstrapOptions& options = {});

/// Two-sided p of McNemar's exact test: min(1, 2·P(X <= min(b, c))), X ~ Bin(b + c, ½), of the flips b and c each way;
/// 1 without flips.
double mcnemar_exact(const PairedCounts& counts);

enum class Verdict { kBetter, kEquivalent, kWorse, kUndecided };
enum class Replace { kYes, kNo, kUndecided };
std::string to_string(Verdict verdict);  ///< "better", "equivalent", "worse", "undecided"
std::string to_string(Replace replace);  ///< "yes", "no", "undecided"

/// The rule: `equivalent` when the (1 - 2·alpha) Agresti-Min interval lies inside (-margin, margin); else `better` when
/// the (1 - alpha) interval lies above 0, `worse` when below it; else `undecided`. Apart from it `replace`: yes when
/// the (1 - 2·alpha) interval lies above -margin, no when below it, else undecided.
struct PairedDecision {
  Interval interval;         ///< level 1 - alpha: 95 %
  Interval narrow_interval;  ///< level 1 - 2·alpha: 90 %
  Verdict verdict = Verdict::kUndecided;
  Replace replace = Replace::kUndecided;
};
/// Error: kConfig unless 0 <= margin < 1 and 0 < alpha < ½.
PairedDecision decide(const PairedCounts& counts, double margin = 0.02, double alpha = 0.05);

/// How many items in all would decide the verdict if shares were those seen (½ added to each count): the shares
/// themselves would be decided, and with probability `power` what is drawn from them; in normal approximation. More
/// than n() where the verdict is undecided. None where no number up to 10^12 would do (margin 0 and no difference).
/// Error: as decide(), and kConfig unless ½ <= power < 1.
std::optional<std::int64_t> needed_sample_size(const PairedCounts& counts, double margin = 0.02, double power = 0.8,
                                               double alpha = 0.05);

/// p values adjusted for there being m of them, in their order: each at most 1, non-decreasing in the order of the p.
/// Source: Holm 1979; statsmodels: multipletests(method="holm"). Error: kMismatch for a p outside [0, 1].
std::vector<double> holm(std::span<const double> p);

/// One class's part: the items of that label.
struct ClassDifference {
  PairedCounts counts;               ///< n() = 0 for a class without items: then the difference is 0 and p is 1
  Interval interval;                 ///< Agresti-Min, at `level`; [-1, 1] without items
  double mcnemar_p = 1, holm_p = 1;  ///< the second adjusted over the classes that have items
};
/// K entries. `labels` n numbers in [0, classes).
std::vector<ClassDifference> class_differences(std::span<const std::int64_t> labels,
                                               std::span<const std::uint8_t> baseline_correct,
                                               std::span<const std::uint8_t> candidate_correct, std::int64_t classes,
                                               double level = 0.95);

}  // namespace vlmzoo
