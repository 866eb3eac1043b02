#include "vlmzoo/metrics.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>

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

Predictions predictions_of(const Json& golden) { return {golden["classes"], golden["scores"], golden["labels"]}; }

/// Sums of this length in another order differ by a few 1e-16.
constexpr double kRounding = 1e-12;

bool near(double got, double expected, double tolerance = kRounding) {
  return std::abs(got - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

bool near(const Interval& got, const Json& expected, double tolerance = kRounding) {
  return near(got.low, expected[0], tolerance) && near(got.high, expected[1], tolerance);
}

Predictions three_items() { return {2, {0.9, 0.1, 0.4, 0.6, 0.5, 0.5}, {0, 0, 1}}; }

}  // namespace

TEST_CASE("metrics of a classification are scikit-learn's, with absent classes, ties and certainty") {
  REQUIRE(goldens()["classification"].size() == 5);
  for (const Json& golden : goldens()["classification"]) {
    CAPTURE(golden["name"].get<std::string>());
    const ClassificationMetrics got = classification_metrics(predictions_of(golden), golden["bin_count"]);
    CHECK(got.n == std::ssize(golden["labels"]));
    CHECK(near(got.accuracy, golden["accuracy"]));
    CHECK(near(got.balanced_accuracy, golden["balanced_accuracy"]));
    CHECK(near(got.macro_f1, golden["macro_f1"]));
    CHECK(near(got.negative_log_likelihood, golden["negative_log_likelihood"]));
    CHECK(near(got.calibration_error, golden["calibration_error"]));
    CHECK(got.confusion.counts == golden["confusion"].get<std::vector<std::int64_t>>());
    REQUIRE(got.per_class.size() == golden["support"].size());
    for (std::size_t k = 0; k < got.per_class.size(); ++k) {
      CHECK(near(got.per_class[k].precision, golden["precision"][k]));
      CHECK(near(got.per_class[k].recall, golden["recall"][k]));
      CHECK(near(got.per_class[k].f1, golden["f1"][k]));
      CHECK(got.per_class[k].support == golden["support"][k].get<std::int64_t>());
    }
    std::int64_t items = 0;
    for (const CalibrationBin& bin : got.bins) items += bin.count;
    CHECK(items == got.n);
  }
}

TEST_CASE("a calibration bin holds what is above its lower edge, up to its upper one") {
  const std::vector<CalibrationBin> bins = calibration_bins({1, {1, 1}, {0, 0}}, 3);
  CHECK(bins[2].count == 2);
  // 0.6 is 3/5 and 0.5000…1 is above 1/2.
  const Predictions edges{2, {0.6, 0.4, 0.5, 0.5, std::nextafter(0.5, 1), std::nextafter(0.5, 0)}, {0, 1, 0}};
  CHECK(calibration_bins(edges, 5)[2].count == 3);
  CHECK(calibration_bins(edges, 2)[0].count == 1);
  CHECK(calibration_bins(edges, 2)[1].count == 2);
  CHECK(calibration_bins(edges, 2)[0].accuracy == 0);
}

TEST_CASE("the first of equal scores is predicted, as in numpy") {
  CHECK(predicted_classes(three_items()) == std::vector<std::int64_t>{0, 1, 0});
}

TEST_CASE("a certain mistake costs -ln(2^-52), not infinity") {
  CHECK(near(negative_log_likelihood({2, {1, 0}, {1}}), 52 * std::log(2)));
}

TEST_CASE("Cohen's kappa is scikit-learn's, and 1 where it would divide by zero") {
  for (const Json& golden : goldens()["kappa"]) {
    CHECK(near(cohen_kappa({golden["classes"], golden["counts"]}), golden["kappa"]));
  }
  CHECK(cohen_kappa({2, {5, 0, 0, 0}}) == 1);
  CHECK(cohen_kappa({2, {0, 5, 0, 0}}) == 0);
}

TEST_CASE("the fitted temperature is where scipy finds the smallest negative log-likelihood") {
  REQUIRE(goldens()["temperature"].size() == 3);
  for (const Json& golden : goldens()["temperature"]) {
    CAPTURE(golden["name"].get<std::string>());
    const Predictions logits = predictions_of(golden);
    const double temperature = fit_temperature(logits);
    CHECK(near(temperature, golden["temperature"], 1e-7));  // a minimum is flat: scipy's argument has half the digits
    CHECK(near(negative_log_likelihood(calibrated(logits, temperature)), golden["negative_log_likelihood"], 1e-10));
  }
}

TEST_CASE("a temperature without a minimum is 1, or the flattest allowed") {
  CHECK(fit_temperature({2, {3, 1, 0, 2}, {0, 1}}) == 1);                // all right
  CHECK(fit_temperature({1, {3, 7}, {0, 0}}) == 1);                      // one class
  CHECK(fit_temperature({2, {1, 1, 2, 2}, {0, 1}}) == 1);                // nothing to scale
  CHECK(fit_temperature({2, {3, 1, 0, 2}, {1, 0}}) == kMaxTemperature);  // all wrong
  // A common offset of a row changes nothing; fp32's largest numbers give numbers.
  CHECK(near(fit_temperature({2, {1e9 + 3, 1e9, 3, 0, 0, 3}, {0, 1, 1}}),
             fit_temperature({2, {3, 0, 3, 0, 0, 3}, {0, 1, 1}})));
  CHECK(std::isfinite(fit_temperature({2, {3e38, -3e38, 3e38, -3e38}, {0, 1}})));
}

TEST_CASE("calibrated logits are probabilities whatever their size") {
  const Predictions got = calibrated({3, {1000, 1000, -1000, 0, std::log(2), 0}, {0, 1}});
  CHECK(near(got.scores[0], 0.5));
  CHECK(got.scores[2] == 0);
  CHECK(near(got.scores[4], 0.5));
  CHECK(near(calibrated({2, {std::log(9), 0}, {0}}, 2).scores[0], 0.75));
  CHECK(got.labels == std::vector<std::int64_t>{0, 1});
}

TEST_CASE("bootstrap intervals are those of the same draws in numpy, and near scipy's") {
  for (const Json& golden : goldens()["bootstrap"]) {
    const std::vector<std::uint8_t> correct = golden["correct"];
    const BootstrapOptions options{golden["resamples"], golden["seed"], golden["level"]};
    CHECK(near(accuracy_interval(correct, options), golden["interval"]));
    // Another generator, 50,000 resamples; one of 40 items more or less at an end.
    CHECK(near(accuracy_interval(correct, {.level = options.level}), golden["scipy_interval"], 0.0251));
  }
}

TEST_CASE("any statistic can be bootstrapped, with the same draws for a seed") {
  const std::vector<std::int64_t> labels = {0, 0, 1, 1, 2, 2, 2, 0}, predicted = {0, 1, 1, 1, 2, 0, 2, 0};
  std::vector<std::uint8_t> correct;
  for (std::size_t i = 0; i < labels.size(); ++i) correct.push_back(labels[i] == predicted[i]);
  const auto interval = [&](double (*metric)(const ConfusionMatrix&), std::uint64_t seed) {
    return bootstrap_interval(
        8, [&](std::span<const std::uint32_t> rows) { return metric(confusion_matrix(labels, predicted, 3, rows)); },
        {2'000, seed, 0.9});
  };
  const Interval by_metric = interval(accuracy, 3), direct = accuracy_interval(correct, {2'000, 3, 0.9});
  CHECK(by_metric.low == direct.low);
  CHECK(by_metric.high == direct.high);
  const Interval f1 = interval(macro_f1, 3);
  CHECK(f1.low < macro_f1(confusion_matrix(labels, predicted, 3)));
  CHECK(f1.high > macro_f1(confusion_matrix(labels, predicted, 3)));
}

TEST_CASE("95 % intervals of an accuracy hold the true one in about 95 % of seeded draws") {
  constexpr int kDraws = 1'000, kItems = 200;
  constexpr double kTruth = 0.85;
  Random random(11);
  int bootstrapped = 0, exact = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<std::uint8_t> correct(kItems);
    std::int64_t right = 0;
    for (std::uint8_t& one : correct) right += one = random.chance(kTruth);
    const Interval a = accuracy_interval(correct, {500, static_cast<std::uint64_t>(draw), 0.95});
    const Interval b = exact_interval(right, kItems);
    bootstrapped += a.low <= kTruth && kTruth <= a.high;
    exact += b.low <= kTruth && kTruth <= b.high;
  }
  CHECK(bootstrapped >= 0.93 * kDraws);
  CHECK(bootstrapped <= 0.97 * kDraws);
  CHECK(exact >= 0.95 * kDraws);  // never below its level
  CHECK(exact <= 0.98 * kDraws);
}

TEST_CASE("exact intervals of a share are scipy's") {
  for (const Json& golden : goldens()["exact"]) {
    CHECK(near(exact_interval(golden["right"], golden["n"], golden["level"]), golden["interval"], 1e-10));
  }
}

TEST_CASE("percentiles are numpy's") {
  const Json& golden = goldens()["percentiles"];
  const std::vector<double> values = golden["values"];
  for (std::size_t i = 0; i < golden["percent"].size(); ++i) {
    CHECK(near(percentile(values, golden["percent"][i]), golden["results"][i]));
  }
  const LatencySummary summary = latency_summary(values);
  CHECK(summary.n == 23);
  CHECK(near(summary.mean, golden["mean"]));
  CHECK(near(summary.p50, golden["results"][2]));
  CHECK(near(summary.p95, golden["results"][3]));
  CHECK(near(summary.p99, golden["results"][4]));
  CHECK(near(summary.max, golden["results"][5]));
  CHECK(percentile(std::vector{4.5}, 99) == 4.5);
  CHECK(latency_summary(std::vector{1.5e308, 1.5e308}).mean == 1.5e308);
}

TEST_CASE("data that can't be measured is refused with what is wrong") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto check = [](const auto& work, std::string_view text, ErrorCode code = ErrorCode::kMismatch) {
    CAPTURE(text);
    const std::optional<Error> error = error_of(work);
    REQUIRE(error.has_value());
    CAPTURE(error->what());
    CHECK((error->code() == code));
    CHECK(contains(*error, text));
  };
  check([] { classification_metrics({3, {}, {}}); }, "no labels");
  check([] { classification_metrics({0, {}, {0}}); }, "0 classes");
  check([] { classification_metrics({2, {1, 0, 1}, {0, 0}}); }, "3 scores; expected 2 items of 2 classes");
  check([] { classification_metrics({2, {1, 0, 1, 0}, {0, 2}}); }, "item 1 has the class 2; expected 0 to 1");
  check([] { classification_metrics({2, {1, 0}, {-1}}); }, "class -1");
  check([&] { classification_metrics({2, {nan, 1}, {0}}); }, "item 0 has the score nan");
  check([] { classification_metrics({2, {1.5, -0.5}, {0}}); }, "probability 1.5");
  check([] { classification_metrics({2, {0.5, 0.4}, {0}}); }, "add up to 0.9");
  check([] { classification_metrics({2, {1, 0}, {0}}, 0); }, "0 calibration bins", ErrorCode::kConfig);
  check([&] { predicted_classes({2, {nan, 1}, {0}}); }, "nan");
  check([] { fit_temperature({2, {1e200, 0}, {0}}); }, "1e+200");
  check([] { calibrated({2, {1, 0}, {0}}, 0); }, "temperature is 0", ErrorCode::kConfig);
  check([] { accuracy({2, {0, 0, 0, 0}}); }, "without items");
  check([] { accuracy({2, {1, 0, 0}}); }, "2 classes with 3 counts");
  check([] { accuracy({2, {1, -1, 0, 0}}); }, "count -1");
  check(
      [] {
        confusion_matrix(std::vector<std::int64_t>{0}, std::vector<std::int64_t>{0}, 2, std::vector<std::uint32_t>{1});
      },
      "row 1 of 1");
  check([] { confusion_matrix(std::vector<std::int64_t>{0}, std::vector<std::int64_t>{0}, 50'000); }, "at most 10000");
  check([] { expected_calibration_error({}); }, "without items");
  check([] { accuracy_interval({}); }, "at least one item");
  check([] { accuracy_interval(std::vector<std::uint8_t>{2}); }, "item 0 is 2");
  check([] { accuracy_interval(std::vector<std::uint8_t>{1}, {.resamples = 0}); }, "0 bootstrap", ErrorCode::kConfig);
  check([] { accuracy_interval(std::vector<std::uint8_t>{1}, {.level = 1}); }, "level", ErrorCode::kConfig);
  check([&] { bootstrap_interval(3, [&](auto) { return nan; }); }, "statistic is nan");
  check([] { bootstrap_interval(0, [](auto) { return 1.0; }); }, "0 items");
  check([] { exact_interval(3, 2); }, "3 right of 2");
  check([] { percentile({}, 50); }, "no values");
  check([&] { latency_summary(std::vector{1.0, nan}); }, "nan");
  check([] { percentile(std::vector{1.0}, 101); }, "101", ErrorCode::kConfig);
}
