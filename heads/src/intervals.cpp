#include <fmt/format.h>

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numeric>

#include "metrics_checks.hpp"
#include "vlmzoo/metrics.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo {
namespace {

/// Of sorted values; numpy's method "linear".
double quantile(std::span<const double> sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - std::floor(place));
}

std::vector<double> sorted_copy(std::span<const double> values) {
  if (values.empty()) bad_metric_input("a percentile of no values");
  for (const double value : values) {
    if (!std::isfinite(value)) bad_metric_input(fmt::format("a percentile of values among which is {}", value));
  }
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

}  // namespace

Interval percentile_interval(std::span<double> values, double level) {
  std::sort(values.begin(), values.end());
  const double outside = (1 - level) / 2;
  return {quantile(values, outside), quantile(values, 1 - outside)};
}

Interval bootstrap_interval(std::int64_t n, const std::function<double(std::span<const std::uint32_t> rows)>& statistic,
                            const BootstrapOptions& options) {
  check_bootstrap(n, options);
  Random random(options.seed);
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(n));
  std::vector<double> values(static_cast<std::size_t>(options.resamples));
  for (double& value : values) {
    for (std::uint32_t& row : rows) row = static_cast<std::uint32_t>(random.below(static_cast<std::uint64_t>(n)));
    value = statistic(rows);
    if (!std::isfinite(value)) bad_metric_input(fmt::format("a bootstrapped statistic is {}", value));
  }
  return percentile_interval(values, options.level);
}

Interval accuracy_interval(std::span<const std::uint8_t> correct, const BootstrapOptions& options) {
  check_flags(correct, "marks of what is right");
  const auto share = [&](std::span<const std::uint32_t> rows) {
    std::int64_t right = 0;
    for (const std::uint32_t row : rows) right += correct[row];
    return static_cast<double>(right) / static_cast<double>(rows.size());
  };
  return bootstrap_interval(std::ssize(correct), share, options);
}

Interval exact_interval(std::int64_t right, std::int64_t n, double level) {
  check_level(level);
  if (n < 1 || right < 0 || right > n) bad_metric_input(fmt::format("{} right of {} items", right, n));
  using Binomial = boost::math::binomial_distribution<double>;
  const auto trials = static_cast<double>(n), successes = static_cast<double>(right);
  const double outside = (1 - level) / 2;
  return {Binomial::find_lower_bound_on_p(trials, successes, outside),
          Binomial::find_upper_bound_on_p(trials, successes, outside)};
}

double percentile(std::span<const double> values, double percent) {
  if (!(percent >= 0 && percent <= 100)) {
    throw Error(ErrorCode::kConfig, fmt::format("the {}-th percentile; expected 0 to 100", percent));
  }
  return quantile(sorted_copy(values), percent / 100);
}

LatencySummary latency_summary(std::span<const double> values) {
  const std::vector<double> sorted = sorted_copy(values);
  const auto n = static_cast<double>(sorted.size());
  // Divided first: a sum of finite values may not be finite.
  const double mean =
      std::accumulate(sorted.begin(), sorted.end(), 0.0, [n](double sum, double v) { return sum + v / n; });
  return {std::ssize(sorted),     mean,         quantile(sorted, 0.50), quantile(sorted, 0.95),
          quantile(sorted, 0.99), sorted.back()};
}

}  // namespace vlmzoo
