#include "vlmzoo/paired_statistics.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/normal.hpp>
#include <cmath>
#include <numeric>

#include "metrics_checks.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo {
namespace {

/// Above which a standard normal lies with probability `p`.
double upper_quantile(double p) { return boost::math::quantile(boost::math::complement(boost::math::normal(), p)); }
double normal_cdf(double z) { return boost::math::cdf(boost::math::normal(), z); }

void check_counts(const PairedCounts& counts) {
  if (std::min({counts.both, counts.baseline_only, counts.candidate_only, counts.neither}) < 0) {
    bad_metric_input("a negative count of paired items");
  }
  if (counts.n() < 1) bad_metric_input("no paired items; expected at least one");
}

void check_rule(double margin, double alpha) {
  if (!(margin >= 0 && margin < 1)) {
    throw Error(ErrorCode::kConfig, fmt::format("the margin is {}; expected 0 <= margin < 1", margin));
  }
  if (!(alpha > 0 && alpha < 0.5)) {
    throw Error(ErrorCode::kConfig, fmt::format("alpha is {}; expected 0 < alpha < 0.5", alpha));
  }
}

/// The difference with ½ added to each count, the deviation of one item's part in it, and the items with the 4 halves.
struct Adjusted {
  double items, difference, deviation;
};

Adjusted adjusted(const PairedCounts& counts) {
  const double items = static_cast<double>(counts.n()) + 2;
  const double difference = static_cast<double>(counts.candidate_only - counts.baseline_only) / items;
  const double flips = static_cast<double>(counts.candidate_only + counts.baseline_only + 1) / items;
  return {items, difference, std::sqrt(flips - difference * difference)};
}

/// True when these shares are decided at this standard error, and an estimate of them is with this probability, normal
/// approximation. Undecided is what lies between `inside`, the largest estimate that is equivalent, and `outside`, the
/// smallest that is better or worse.
bool decides(double difference, double error, double margin, double alpha, double power) {
  const double inside = std::max(0.0, margin - upper_quantile(alpha) * error);
  const double outside = upper_quantile(alpha / 2) * error;
  if (inside >= outside) return true;
  const double seen = std::abs(difference);
  if (inside <= seen && seen <= outside) return false;
  const auto mass = [&](double low, double high) {
    return normal_cdf((high - seen) / error) - normal_cdf((low - seen) / error);
  };
  return mass(inside, outside) + mass(-outside, -inside) <= 1 - power;
}

}  // namespace

PairedCounts paired_counts(std::span<const std::uint8_t> baseline_correct,
                           std::span<const std::uint8_t> candidate_correct) {
  if (baseline_correct.size() != candidate_correct.size()) {
    bad_metric_input(fmt::format("{} items of the baseline and {} of the candidate; they have to be the same items",
                                 baseline_correct.size(), candidate_correct.size()));
  }
  check_flags(baseline_correct, "marks of the baseline");
  check_flags(candidate_correct, "marks of the candidate");
  PairedCounts counts;
  for (std::size_t i = 0; i < baseline_correct.size(); ++i) {
    const bool baseline = baseline_correct[i] != 0, candidate = candidate_correct[i] != 0;
    ++(baseline ? (candidate ? counts.both : counts.baseline_only)
                : (candidate ? counts.candidate_only : counts.neither));
  }
  return counts;
}

Interval agresti_min_interval(const PairedCounts& counts, double level) {
  check_level(level);
  check_counts(counts);
  const Adjusted a = adjusted(counts);
  const double reach = upper_quantile((1 - level) / 2) * a.deviation / std::sqrt(a.items);
  return {std::max(-1.0, a.difference - reach), std::min(1.0, a.difference + reach)};
}

Interval paired_bootstrap_interval(const PairedCounts& counts, const BootstrapOptions& options) {
  check_counts(counts);
  check_bootstrap(counts.n(), options);
  // Items in the order baseline only, candidate only, all others: only how many there are of each matters.
  const auto n = static_cast<std::uint64_t>(counts.n()), losses = static_cast<std::uint64_t>(counts.baseline_only);
  const std::uint64_t flips = losses + static_cast<std::uint64_t>(counts.candidate_only);
  Random random(options.seed);
  std::vector<double> values(static_cast<std::size_t>(options.resamples));
  for (double& value : values) {
    std::int64_t difference = 0;
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t row = random.below(n);
      difference += int{row < flips} - 2 * int{row < losses};
    }
    value = static_cast<double>(difference) / static_cast<double>(n);
  }
  return percentile_interval(values, options.level);
}

double mcnemar_exact(const PairedCounts& counts) {
  check_counts(counts);
  const std::int64_t flips = counts.baseline_only + counts.candidate_only;
  if (flips == 0) return 1;
  const boost::math::binomial_distribution<double> even(static_cast<double>(flips), 0.5);
  const auto fewer = static_cast<double>(std::min(counts.baseline_only, counts.candidate_only));
  return std::min(1.0, 2 * boost::math::cdf(even, fewer));
}

std::string to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kBetter:
      return "better";
    case Verdict::kEquivalent:
      return "equivalent";
    case Verdict::kWorse:
      return "worse";
    case Verdict::kUndecided:
      break;
  }
  return "undecided";
}

std::string to_string(Replace replace) {
  return replace == Replace::kYes ? "yes" : replace == Replace::kNo ? "no" : "undecided";
}

PairedDecision decide(const PairedCounts& counts, double margin, double alpha) {
  check_rule(margin, alpha);
  PairedDecision decision;
  decision.interval = agresti_min_interval(counts, 1 - alpha);
  decision.narrow_interval = agresti_min_interval(counts, 1 - 2 * alpha);
  const Interval& wide = decision.interval;
  const Interval& narrow = decision.narrow_interval;
  decision.verdict = narrow.low > -margin && narrow.high < margin ? Verdict::kEquivalent
                     : wide.low > 0                               ? Verdict::kBetter
                     : wide.high < 0                              ? Verdict::kWorse
                                                                  : Verdict::kUndecided;
  decision.replace = narrow.low > -margin ? Replace::kYes : narrow.high < -margin ? Replace::kNo : Replace::kUndecided;
  return decision;
}

std::optional<std::int64_t> needed_sample_size(const PairedCounts& counts, double margin, double power, double alpha) {
  check_rule(margin, alpha);
  check_counts(counts);
  if (!(power >= 0.5 && power < 1)) {
    throw Error(ErrorCode::kConfig, fmt::format("the power is {}; expected 0.5 <= power < 1", power));
  }
  const Adjusted a = adjusted(counts);
  const auto enough = [&](std::int64_t n) {
    const double error = a.deviation / std::sqrt(static_cast<double>(n) + 2);
    return decides(a.difference, error, margin, alpha, power);
  };
  std::int64_t low = 0, high = 1'000'000'000'000;  // too few, enough
  if (!enough(high)) return std::nullopt;
  while (high - low > 1) {
    const std::int64_t middle = std::midpoint(low, high);
    (enough(middle) ? high : low) = middle;
  }
  return high;
}

std::vector<double> holm(std::span<const double> p) {
  for (const double value : p) {
    if (!(value >= 0 && value <= 1)) bad_metric_input(fmt::format("a p value is {}; expected 0 to 1", value));
  }
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - rank) * p[order[rank]]));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

std::vector<ClassDifference> class_differences(std::span<const std::int64_t> labels,
                                               std::span<const std::uint8_t> baseline_correct,
                                               std::span<const std::uint8_t> candidate_correct, std::int64_t classes,
                                               double level) {
  check_level(level);
  check_classes(labels, classes, "labels");
  if (labels.size() != baseline_correct.size()) {
    bad_metric_input(fmt::format("{} labels for {} items", labels.size(), baseline_correct.size()));
  }
  paired_counts(baseline_correct, candidate_correct);  // checks both
  std::vector<ClassDifference> result(static_cast<std::size_t>(classes));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const PairedCounts one = paired_counts(baseline_correct.subspan(i, 1), candidate_correct.subspan(i, 1));
    PairedCounts& counts = result[labels[i]].counts;
    counts.both += one.both;
    counts.baseline_only += one.baseline_only;
    counts.candidate_only += one.candidate_only;
    counts.neither += one.neither;
  }
  std::vector<double> p;
  for (ClassDifference& one : result) {
    one.interval = {-1, 1};
    if (one.counts.n() == 0) continue;
    one.interval = agresti_min_interval(one.counts, level);
    p.push_back(one.mcnemar_p = mcnemar_exact(one.counts));
  }
  const std::vector<double> corrected = holm(p);
  auto next = corrected.begin();
  for (ClassDifference& one : result) {
    if (one.counts.n() > 0) one.holm_p = *next++;
  }
  return result;
}

}  // namespace vlmzoo
