#include "vlmzoo/paired_statistics.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>

#include "error_of.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/random.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

const Json& goldens() {
  static const Json json =
      read_json(std::filesystem::path(__FILE__).parent_path().parent_path() / "goldens" / "metrics.json");
  return json;
}

PairedCounts counts_of(const Json& cells) { return {cells[0], cells[1], cells[2], cells[3]}; }

bool near(double got, double expected) { return std::abs(got - expected) <= 1e-12; }

/// Items drawn one by one: shares of baseline only and of candidate only; all others are both's.
PairedCounts draw(Random& random, std::int64_t items, double baseline_only, double candidate_only) {
  PairedCounts counts;
  for (std::int64_t i = 0; i < items; ++i) {
    const double place = random.unit();
    ++(place < baseline_only                    ? counts.baseline_only
       : place < baseline_only + candidate_only ? counts.candidate_only
                                                : counts.both);
  }
  return counts;
}

/// The probability that Agresti-Min's 95 % interval holds the truth, over all flips that may come.
double exact_coverage(std::int64_t items, double baseline_only, double candidate_only) {
  const auto log_factorial = [](std::int64_t n) { return std::lgamma(static_cast<double>(n) + 1); };
  const double difference = candidate_only - baseline_only;
  double covered = 0, total = 0;
  for (std::int64_t b = 0; b <= items; ++b) {
    for (std::int64_t c = 0; b + c <= items; ++c) {
      const std::int64_t rest = items - b - c;
      const double weight = std::exp(log_factorial(items) - log_factorial(b) - log_factorial(c) - log_factorial(rest) +
                                     static_cast<double>(b) * std::log(baseline_only) +
                                     static_cast<double>(c) * std::log(candidate_only) +
                                     static_cast<double>(rest) * std::log1p(-baseline_only - candidate_only));
      if (weight < 1e-10 && static_cast<double>(c) > candidate_only * static_cast<double>(items)) break;
      const Interval interval = agresti_min_interval({rest, b, c, 0});
      total += weight;
      covered += interval.low <= difference && difference <= interval.high ? weight : 0;
    }
    if (total > 1 - 1e-9) break;
  }
  return covered / total;
}

}  // namespace

TEST_CASE("intervals, McNemar's p, verdicts and sample sizes are those of scipy and statsmodels") {
  REQUIRE(goldens()["paired"].size() == 11);
  for (const Json& golden : goldens()["paired"]) {
    CAPTURE(golden.dump());
    const PairedCounts counts = counts_of(golden["cells"]);
    const double margin = golden["margin"], alpha = golden["alpha"];
    const PairedDecision decision = decide(counts, margin, alpha);
    CHECK(near(decision.interval.low, golden["interval"][0]));
    CHECK(near(decision.interval.high, golden["interval"][1]));
    CHECK(near(decision.narrow_interval.low, golden["narrow_interval"][0]));
    CHECK(near(decision.narrow_interval.high, golden["narrow_interval"][1]));
    CHECK(near(mcnemar_exact(counts), golden["mcnemar_p"]));
    CHECK(to_string(decision.verdict) == golden["verdict"].get<std::string>());
    CHECK(to_string(decision.replace) == golden["replace"].get<std::string>());
    CHECK(needed_sample_size(counts, margin, golden["power"], alpha) == golden["needed"].get<std::int64_t>());
  }
}

TEST_CASE("the Agresti-Min interval is that of R's PropCIs::diffpropci.mp") {
  const Interval interval = agresti_min_interval({100, 40, 20, 0});  // diffpropci.mp(40, 20, 160, 0.95)
  CHECK(interval.low == doctest::Approx(-0.216017).epsilon(1e-5));
  CHECK(interval.high == doctest::Approx(-0.030896).epsilon(1e-4));
}

TEST_CASE("flips are counted from the marks of each item") {
  const std::vector<std::uint8_t> baseline = {1, 1, 0, 0, 1, 0}, candidate = {1, 0, 1, 0, 1, 1};
  const PairedCounts counts = paired_counts(baseline, candidate);
  CHECK(counts.both == 2);
  CHECK(counts.baseline_only == 1);
  CHECK(counts.candidate_only == 2);
  CHECK(counts.neither == 1);
  CHECK(counts.difference() == doctest::Approx(1.0 / 6));
  CHECK(counts.baseline_accuracy() == doctest::Approx(3.0 / 6));
  CHECK(counts.candidate_accuracy() == doctest::Approx(4.0 / 6));
  CHECK(PairedCounts{}.difference() == 0);
}

TEST_CASE("the paired bootstrap draws whole items: its interval is that of the differences") {
  const PairedCounts counts{70, 12, 5, 13};
  std::vector<double> differences(100);  // in the order that the function documents for itself
  for (std::size_t i = 0; i < 17; ++i) differences[i] = i < 12 ? -1 : 1;
  const Interval expected = bootstrap_interval(100, [&](std::span<const std::uint32_t> rows) {
    double sum = 0;
    for (const std::uint32_t row : rows) sum += differences[row];
    return sum / 100;
  });
  const Interval got = paired_bootstrap_interval(counts);
  CHECK(near(got.low, expected.low));
  CHECK(near(got.high, expected.high));
  // Between the wider and the narrower neighbour of Agresti-Min's.
  CHECK(got.low == doctest::Approx(agresti_min_interval(counts).low).epsilon(0.15));
  const Interval point = paired_bootstrap_interval({10, 0, 0, 0});
  CHECK(point.low == 0);
  CHECK(point.high == 0);
}

TEST_CASE("95 % intervals hold the true difference in 93 to 97 % of seeded draws") {
  constexpr int kDraws = 2'000;
  struct Truth {
    std::int64_t items;
    double baseline_only, candidate_only;
  };
  for (const Truth& truth : {Truth{100, 0.10, 0.10}, {200, 0.05, 0.12}, {500, 0.03, 0.02}, {2000, 0.01, 0.02}}) {
    CAPTURE(truth.items);
    Random random(static_cast<std::uint64_t>(truth.items));
    int adjusted = 0, bootstrapped = 0;
    const double difference = truth.candidate_only - truth.baseline_only;
    std::map<std::pair<std::int64_t, std::int64_t>, bool> bootstrap_holds;  // the same flips give the same interval
    for (int i = 0; i < kDraws; ++i) {
      const PairedCounts counts = draw(random, truth.items, truth.baseline_only, truth.candidate_only);
      const Interval a = agresti_min_interval(counts);
      adjusted += a.low <= difference && difference <= a.high;
      if (truth.items > 500) continue;  // 10,000 resamples of each take time
      const auto [place, unseen] = bootstrap_holds.try_emplace({counts.baseline_only, counts.candidate_only});
      if (unseen) {
        const Interval b = paired_bootstrap_interval(counts);
        place->second = b.low <= difference && difference <= b.high;
      }
      bootstrapped += place->second;
    }
    CHECK(adjusted >= 0.93 * kDraws);
    CHECK(adjusted <= 0.97 * kDraws);
    if (truth.items > 500) continue;
    CHECK(bootstrapped >= 0.93 * kDraws);
    CHECK(bootstrapped <= 0.97 * kDraws);
  }
}

TEST_CASE("from ten expected flips on, Agresti-Min's coverage lies within 94 and 96.1 %, and above with fewer") {
  for (const std::int64_t items : {std::int64_t{100}, std::int64_t{300}, std::int64_t{1000}}) {
    for (const double flips : {10.0, 20.0, 40.0}) {
      for (const double baseline_part : {0.5, 0.3, 0.1}) {
        const double share = flips / static_cast<double>(items);
        const double covered = exact_coverage(items, share * baseline_part, share * (1 - baseline_part));
        CAPTURE(items);
        CAPTURE(flips);
        CAPTURE(baseline_part);
        CHECK(covered >= 0.94);
        CHECK(covered <= 0.961);
      }
    }
    CHECK(exact_coverage(items, 1.0 / static_cast<double>(items), 1.0 / static_cast<double>(items)) > 0.99);
  }
}

TEST_CASE("wrong verdicts come in at most 6 % of seeded draws at the edge of each hypothesis") {
  constexpr int kDraws = 4'000;
  const auto share = [](std::uint64_t seed, std::int64_t items, double baseline_only, double candidate_only,
                        auto wrong) {
    Random random(seed);
    int count = 0;
    for (int i = 0; i < kDraws; ++i) count += wrong(draw(random, items, baseline_only, candidate_only));
    return static_cast<double>(count) / kDraws;
  };
  for (const std::int64_t items : {std::int64_t{200}, std::int64_t{1000}}) {
    CAPTURE(items);
    const auto claims_difference = [](const PairedCounts& counts) {
      const Verdict verdict = decide(counts).verdict;
      return verdict == Verdict::kBetter || verdict == Verdict::kWorse;
    };
    CHECK(share(1, items, 0.06, 0.06, claims_difference) <= 0.06);
    CHECK(share(2, items, 0.06, 0.06, [](const PairedCounts& counts) { return mcnemar_exact(counts) <= 0.05; }) <=
          0.06);
    // The candidate is worse by the whole margin.
    CHECK(share(3, items, 0.05, 0.03, [](const PairedCounts& c) { return decide(c).replace == Replace::kYes; }) <=
          0.06);
    CHECK(share(4, items, 0.05, 0.03,
                [](const PairedCounts& c) { return decide(c).verdict == Verdict::kEquivalent; }) <= 0.06);
  }
}

TEST_CASE("Holm's correction finds a class that differs where none does in at most 6 % of seeded draws") {
  constexpr int kDraws = 1'500, kItems = 300, kClasses = 5;
  Random random(9);
  int alarms = 0, uncorrected = 0;
  for (int draw_number = 0; draw_number < kDraws; ++draw_number) {
    std::vector<std::int64_t> labels;
    std::vector<std::uint8_t> baseline, candidate;
    for (int i = 0; i < kItems; ++i) {
      const bool hard = random.chance(0.3);  // the models are wrong on the same items more often than by chance
      labels.push_back(i % kClasses);
      baseline.push_back(!random.chance(hard ? 0.5 : 0.1));
      candidate.push_back(!random.chance(hard ? 0.5 : 0.1));
    }
    bool alarm = false, raw = false;
    for (const ClassDifference& one : class_differences(labels, baseline, candidate, kClasses)) {
      alarm |= one.holm_p <= 0.05;
      raw |= one.mcnemar_p <= 0.05;
    }
    alarms += alarm;
    uncorrected += raw;
  }
  CHECK(alarms <= 0.06 * kDraws);
  CHECK(uncorrected > 0.06 * kDraws);  // what the correction is for
}

TEST_CASE("the needed sample size decides as often as it promises") {
  for (const PairedCounts& counts : {PairedCounts{930, 34, 20, 16}, PairedCounts{180, 8, 7, 5}}) {
    REQUIRE((decide(counts).verdict == Verdict::kUndecided));
    const std::optional<std::int64_t> needed = needed_sample_size(counts);
    REQUIRE(needed.has_value());
    CHECK(*needed > counts.n());
    const double items = static_cast<double>(counts.n()) + 2;
    const double losses = (static_cast<double>(counts.baseline_only) + 0.5) / items;
    const double wins = (static_cast<double>(counts.candidate_only) + 0.5) / items;
    Random random(5);
    int decided = 0;
    constexpr int kDraws = 1'000;
    for (int i = 0; i < kDraws; ++i)
      decided += decide(draw(random, *needed, losses, wins)).verdict != Verdict::kUndecided;
    CAPTURE(*needed);
    CHECK(decided >= 0.76 * kDraws);
    CHECK(decided <= 0.84 * kDraws);
  }
  CHECK(!needed_sample_size({10, 5, 5, 10}, /*margin=*/0).has_value());
}

TEST_CASE("Holm's correction is that of statsmodels") {
  const std::vector<double> p = goldens()["holm"]["p"];
  const std::vector<double> got = holm(p);
  for (std::size_t i = 0; i < p.size(); ++i) CHECK(near(got[i], goldens()["holm"]["adjusted"][i]));
  CHECK(holm({}).empty());
}

TEST_CASE("differences by class split the items and correct for the classes that have any") {
  std::vector<std::int64_t> labels;
  std::vector<std::uint8_t> baseline, candidate;
  const auto add = [&](std::int64_t label, int times, bool baseline_right, bool candidate_right) {
    for (int i = 0; i < times; ++i) {
      labels.push_back(label);
      baseline.push_back(baseline_right);
      candidate.push_back(candidate_right);
    }
  };
  add(0, 20, true, true);
  add(0, 10, false, true);
  add(2, 15, true, true);
  add(2, 1, true, false);
  const std::vector<ClassDifference> got = class_differences(labels, baseline, candidate, 3);
  REQUIRE(got.size() == 3);
  CHECK(got[0].counts.candidate_only == 10);
  CHECK(got[0].counts.difference() == doctest::Approx(10.0 / 30));
  CHECK(got[0].interval.low == agresti_min_interval({20, 0, 10, 0}).low);
  CHECK(got[0].mcnemar_p == doctest::Approx(2.0 / 1024));
  CHECK(got[0].holm_p == doctest::Approx(4.0 / 1024));  // of two, not of three
  CHECK(got[1].counts.n() == 0);
  CHECK(got[1].mcnemar_p == 1);
  CHECK(got[1].interval.low == -1);
  CHECK(got[2].counts.baseline_only == 1);
  CHECK(got[2].holm_p == 1);
}

TEST_CASE("pairs that can't be compared are refused with what is wrong") {
  const auto check = [](const auto& work, std::string_view text, ErrorCode code) {
    const std::optional<Error> error = error_of(work);
    REQUIRE(error.has_value());
    CAPTURE(error->what());
    CHECK((error->code() == code));
    CHECK(contains(*error, text));
  };
  const std::vector<std::uint8_t> one = {1}, two = {1, 0}, bad = {1, 7}, none;
  const std::vector<std::int64_t> labels = {0, 1};
  check([&] { paired_counts(one, two); }, "1 items of the baseline and 2", ErrorCode::kMismatch);
  check([&] { paired_counts(two, bad); }, "candidate: item 1 is 7", ErrorCode::kMismatch);
  check([&] { paired_counts(none, none); }, "at least one item", ErrorCode::kMismatch);
  check([&] { class_differences(labels, one, one, 2); }, "2 labels for 1 items", ErrorCode::kMismatch);
  check([&] { class_differences(labels, two, two, 1); }, "class 1", ErrorCode::kMismatch);
  check([] { decide({}); }, "no paired items", ErrorCode::kMismatch);
  check([] { mcnemar_exact({1, -1, 0, 0}); }, "negative", ErrorCode::kMismatch);
  check([] { paired_bootstrap_interval({}); }, "no paired items", ErrorCode::kMismatch);
  check([] { decide({1, 0, 0, 0}, -0.01); }, "margin is -0.01", ErrorCode::kConfig);
  check([] { decide({1, 0, 0, 0}, 1); }, "margin is 1", ErrorCode::kConfig);
  check([] { decide({1, 0, 0, 0}, 0.02, 0.5); }, "alpha is 0.5", ErrorCode::kConfig);
  check([] { needed_sample_size({1, 0, 0, 0}, 0.02, 1); }, "power is 1", ErrorCode::kConfig);
  check([] { agresti_min_interval({1, 0, 0, 0}, 0); }, "level", ErrorCode::kConfig);
  check([] { holm(std::vector{0.5, 1.5}); }, "p value is 1.5", ErrorCode::kMismatch);
  CHECK(std::isfinite(agresti_min_interval({1, 0, 0, 0}, std::nextafter(1, 0)).low));
  CHECK(needed_sample_size({10, 5, 3, 10}, 0.02, 0.8, 1e-300).has_value());
}
