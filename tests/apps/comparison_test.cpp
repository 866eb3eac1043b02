#include "compare/comparison.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "compare/gates.hpp"
#include "heads/error_of.hpp"
#include "vlmzoo/json.hpp"

// The statistics of `compare`, from predictions alone.
namespace vlmzoo::test {
namespace {

using namespace vlmzoo::app;

const Json& goldens() {
  static const Json json = read_json(std::filesystem::path(VLMZOO_TEST_DATA) / "goldens" / "comparison.json");
  return json;
}

bool near(double got, double expected, double tolerance = 1e-12) { return std::abs(got - expected) <= tolerance; }

/// The work fails with this code and a message that holds all `parts`.
void check_refusal(const auto& work, ErrorCode code, const std::vector<std::string>& parts) {
  const std::optional<Error> error = error_of(work);
  REQUIRE(error.has_value());
  CAPTURE(error->what());
  CHECK((error->code() == code));
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(*error, part));
  }
}

ModelRun run_of(const std::vector<std::int64_t>& labels, const std::vector<double>& logits) {
  ModelRun run;
  run.name = run.model_type = "toy";
  run.class_names = {"none", "one", "several"};
  for (std::size_t i = 0; i < labels.size(); ++i) {
    Prediction prediction;
    prediction.sample_id = "images/" + std::to_string(i) + ".jpg";
    prediction.label = labels[i];
    prediction.logits.assign(logits.begin() + static_cast<std::ptrdiff_t>(3 * i),
                             logits.begin() + static_cast<std::ptrdiff_t>(3 * i + 3));
    prediction.latency_ms = 10 + static_cast<double>(i);
    run.predictions.push_back(prediction);
  }
  return run;
}

/// One model's run over items of class 1, right where `right` says so and else class 2.
ModelRun run_of(const std::vector<bool>& right) {
  std::vector<double> logits;
  for (const bool one : right) {
    logits.push_back(0);
    logits.push_back(one ? 3 : 1);
    logits.push_back(one ? 1 : 3);
  }
  return run_of(std::vector<std::int64_t>(right.size(), 1), logits);
}

/// n items of which the first `wrong` are wrong.
ModelRun run_of(std::size_t n, std::size_t wrong) {
  std::vector<bool> right(n, true);
  for (std::size_t i = 0; i < wrong; ++i) right[i] = false;
  return run_of(right);
}

}  // namespace

TEST_CASE("a comparison's numbers are those of scikit-learn, scipy and statsmodels") {
  REQUIRE(goldens()["comparisons"].size() == 2);
  for (const Json& golden : goldens()["comparisons"]) {
    const std::vector<std::int64_t> labels = golden["labels"];
    const Comparison got =
        compare(run_of(labels, golden["baseline_logits"]), run_of(labels, golden["candidate_logits"]));
    CHECK(got.n() == std::ssize(labels));
    CHECK(near(got.baseline.metrics.accuracy, golden["baseline_accuracy"]));
    CHECK(near(got.candidate.metrics.accuracy, golden["candidate_accuracy"]));
    CHECK(near(got.candidate.metrics.negative_log_likelihood, golden["candidate_nll"]));
    CHECK(got.counts.baseline_only == golden["flips"][0].get<std::int64_t>());
    CHECK(got.counts.candidate_only == golden["flips"][1].get<std::int64_t>());
    CHECK(std::ssize(got.baseline_only) == got.counts.baseline_only);
    CHECK(std::ssize(got.candidate_only) == got.counts.candidate_only);
    CHECK(near(got.mcnemar_p, golden["mcnemar_p"]));
    CHECK(near(got.agreement, golden["agreement"]));
    CHECK(near(got.kappa, golden["kappa"]));
    // scipy's draws are others: an end may lie one item away.
    const double item = 1.0 / static_cast<double>(labels.size()) + 1e-12;
    CHECK(near(got.bootstrap.low, golden["bootstrap"][0], item));
    CHECK(near(got.bootstrap.high, golden["bootstrap"][1], item));
    for (std::size_t k = 0; k < 3; ++k) {
      CHECK(near(got.per_class[k].mcnemar_p, golden["class_p"][k]));
      CHECK(near(got.per_class[k].holm_p, golden["class_holm_p"][k]));
    }
  }
}

TEST_CASE("answers score as in SQuAD, in any script") {
  for (const Json& golden : goldens()["answers"]) {
    CAPTURE(golden.dump());
    CHECK(normalized_answer(golden["answer"].get<std::string>()) == golden["normalized"].get<std::string>());
    CHECK(
        near(token_f1(golden["answer"].get<std::string>(), golden["expected"].get<std::string>()), golden["token_f1"]));
  }
  CHECK(normalized_answer("\xff The") == "\xff The");  // not UTF-8
}

TEST_CASE("answers are compared where the data expects one, and paired") {
  ModelRun baseline = run_of(3, 0), candidate = run_of(3, 0);
  const char* expected[] = {"Two receipts", "", "none"};
  const char* said[] = {"two receipts.", "whatever", "one"};
  for (std::size_t i = 0; i < 3; ++i) {
    baseline.predictions[i].expected_answer = candidate.predictions[i].expected_answer = expected[i];
    baseline.predictions[i].answer = said[i];
    candidate.predictions[i].answer = expected[i];
  }
  const Comparison got = compare(baseline, candidate, {.answers = true});
  REQUIRE(got.answers.has_value());
  CHECK(got.answers->items.size() == 2);
  CHECK(got.answers->items[1].item == 2);
  CHECK(got.answers->baseline.exact_match == 0);
  CHECK(got.answers->baseline.normalized_match == 0.5);
  CHECK(got.answers->candidate.exact_match == 1);
  CHECK(got.answers->normalized.candidate_only == 1);
  CHECK(got.answers->mcnemar_p == 1);
  CHECK(!compare(baseline, candidate).answers.has_value());
  for (ModelRun* run : {&baseline, &candidate}) {
    for (Prediction& prediction : run->predictions) prediction.expected_answer.clear();
  }
  check_refusal([&] { compare(baseline, candidate, {.answers = true}); }, ErrorCode::kMismatch,
                {"no item has an expected answer"});
}

TEST_CASE("the verdict follows the rule, and an undecided one says how many items would decide") {
  const auto verdict = [](std::size_t n, std::size_t baseline_wrong, std::size_t candidate_wrong, double margin) {
    return compare(run_of(n, baseline_wrong), run_of(n, candidate_wrong), {.margin = margin, .resamples = 200});
  };
  CHECK((verdict(400, 2, 2, 0.02).decision.verdict == Verdict::kEquivalent));
  CHECK((verdict(400, 2, 2, 0.02).decision.replace == Replace::kYes));
  CHECK((verdict(400, 40, 2, 0.02).decision.verdict == Verdict::kBetter));
  CHECK((verdict(400, 2, 40, 0.02).decision.verdict == Verdict::kWorse));
  CHECK((verdict(400, 2, 40, 0.02).decision.replace == Replace::kNo));
  const Comparison undecided = verdict(60, 2, 4, 0.02);
  CHECK((undecided.decision.verdict == Verdict::kUndecided));
  REQUIRE(undecided.needed.has_value());
  CHECK(*undecided.needed > 60);
  CHECK(describe_verdict(undecided).find("About " + std::to_string(*undecided.needed)) != std::string::npos);
  CHECK(!verdict(400, 2, 2, 0.02).needed.has_value());
}

TEST_CASE("items pair by id, whatever their order and that of the classes") {
  const ModelRun baseline = run_of({true, true, false, true});
  ModelRun candidate = run_of({true, false, true, true});
  std::swap(candidate.predictions[0], candidate.predictions[2]);
  candidate.class_names = {"several", "none", "one"};
  for (Prediction& prediction : candidate.predictions) {
    prediction.logits = {prediction.logits[2], prediction.logits[0], prediction.logits[1]};
    prediction.label = 2;
  }
  const Comparison got = compare(baseline, candidate);
  CHECK(got.counts.both == 2);
  CHECK(got.baseline_only == std::vector<std::size_t>{1});
  CHECK(got.candidate_only == std::vector<std::size_t>{2});
  CHECK(got.disagreements == std::vector<std::size_t>{1, 2});
  CHECK(got.candidate_run.predictions[2].sample_id == "images/2.jpg");
}

TEST_CASE("few items come with a warning of what can't be concluded, and with the verdict of the rule") {
  const Comparison got = compare(run_of(8, 8), run_of(8, 0));
  CHECK((got.decision.verdict == Verdict::kBetter));
  REQUIRE(got.warnings.size() == 2);
  CHECK(got.warnings[0].find("8 items can't carry a conclusion") != std::string::npos);
  CHECK(got.warnings[0].find("0.0078") != std::string::npos);  // 2 / 2^8
  CHECK(got.warnings[1].find("fewer than 81 items") != std::string::npos);
  CHECK(fewest_items_for_equivalence(0.02, 0.05) == 81);  // 1.6449 / 0.02 - 2
  CHECK(compare(run_of(81, 0), run_of(81, 0), {.resamples = 100}).warnings.empty());
  CHECK((compare(run_of(1, 0), run_of(1, 1)).decision.verdict == Verdict::kUndecided));
}

TEST_CASE("an untrained head is a warning") {
  ModelRun candidate = run_of(100, 0);
  candidate.fresh_head = true;
  const Comparison got = compare(run_of(100, 0), candidate, {.resamples = 100});
  REQUIRE(got.warnings.size() == 1);
  CHECK(got.warnings[0].find("candidate's head is freshly initialised") != std::string::npos);
}

TEST_CASE("runs that can't be paired are refused with what is wrong") {
  const ModelRun baseline = run_of(12, 1);
  const auto check = [&](const auto& change, const std::vector<std::string>& parts) {
    ModelRun candidate = baseline;
    change(candidate);
    check_refusal([&] { compare(baseline, candidate); }, ErrorCode::kMismatch, parts);
  };
  check([](ModelRun& run) { run.class_names[2] = "many"; },
        {"different classes", "baseline none, one, several", "candidate none, one, many"});
  check([](ModelRun& run) { run.class_names.pop_back(); }, {"different classes"});
  check([](ModelRun& run) { run.predictions.resize(1); },
        {"only the baseline has 11 items: images/1.jpg", "and 1 more"});
  check([](ModelRun& run) { run.predictions[0].sample_id = "new"; }, {"only the baseline has 1 item: images/0.jpg"});
  check([](ModelRun& run) { run.predictions[1].sample_id = "images/0.jpg"; },
        {"candidate has the item images/0.jpg twice"});
  check([](ModelRun& run) { run.predictions[3].label = -1; }, {"images/3.jpg has no label"});
  check([](ModelRun& run) { run.predictions[3].label = 7; }, {"images/3.jpg has the label 7"});
  check([](ModelRun& run) { run.predictions[3].label = 0; }, {"images/3.jpg is one to the baseline and none"});
  check([](ModelRun& run) { run.predictions[3].logits.pop_back(); }, {"images/3.jpg has 2 logits for 3 classes"});
  check([](ModelRun& run) { run.predictions.clear(); }, {"only the baseline has 12 items"});
}

TEST_CASE("what one model couldn't read is an error, or left out and counted; what neither could is only counted") {
  ModelRun baseline = run_of(100, 1), candidate = run_of(100, 1);
  const auto spoil = [](ModelRun& run, std::size_t item) {
    run.predictions[item].error = "broken JPEG";
    run.predictions[item].logits.clear();
  };
  spoil(baseline, 5);
  spoil(candidate, 5);
  Comparison got = compare(baseline, candidate, {.resamples = 100});
  CHECK(got.n() == 99);
  CHECK(got.unreadable == 1);
  REQUIRE(got.warnings.size() == 1);
  CHECK(got.warnings[0] == "1 item could be read by neither model and is left out.");
  spoil(candidate, 7);
  check_refusal([&] { compare(baseline, candidate); }, ErrorCode::kMismatch,
                {"candidate failed on 1 item: images/7.jpg (broken JPEG)", "--skip-bad"});
  got = compare(baseline, candidate, {.resamples = 100, .skip_bad = true});
  CHECK(got.n() == 98);
  CHECK(got.skipped == 1);
}

TEST_CASE("gates compare the candidate with a number, or with a multiple of the baseline's") {
  ModelRun baseline = run_of(100, 10), candidate = run_of(100, 5);
  for (Prediction& prediction : candidate.predictions) prediction.latency_ms *= 2;
  baseline.peak_memory = 1'000'000;
  const Comparison comparison = compare(baseline, candidate, {.resamples = 100});
  const auto result = [&](const std::string& text) {
    return check_gates(std::vector{parse_gate(text)}, comparison).at(0);
  };
  CHECK(result("accuracy>=0.95").passed);
  CHECK(!result("accuracy>0.95").passed);
  CHECK(result("accuracy >= 1x").passed);
  CHECK(result("latency_p95<=2x").passed);
  CHECK(!result("latency_p95<2x").passed);
  CHECK(*result("latency_p50<=3x").value == doctest::Approx(2));
  CHECK(result("throughput>=0.5x").passed);
  CHECK(result("accuracy_difference>=0").passed);
  CHECK(result("baseline_only_correct<=0").passed);
  CHECK(result("latency_p99<1e3").passed);
  CHECK(result("accuracy>=0.99").evidence == "accuracy 0.95 is not >= 0.99");
  CHECK(result("latency_p50<=2x").evidence.find("(2x the baseline's 59.5) is <= 2x") != std::string::npos);
  // Not measured: never passed.
  CHECK(!result("peak_memory<=2x").passed);
  CHECK(result("peak_memory<=2x").evidence.find("was not measured") != std::string::npos);
  CHECK(!result("exact_match>=0").passed);
}

TEST_CASE("a gate that can't be read says what is wrong with it") {
  const auto check = [](const std::string& text, const std::vector<std::string>& parts) {
    CAPTURE(text);
    check_refusal([&] { parse_gate(text); }, ErrorCode::kUsage, parts);
  };
  check("acuracy>=0.9", {"unknown metric 'acuracy'; did you mean 'accuracy'?", "latency_p95"});
  check("speed<=2x", {"unknown metric 'speed'; there are accuracy,"});
  check("accuracy", {"expected METRIC>=NUMBER"});
  check("accuracy=0.9", {"'=' is no comparison"});
  check("accuracy=>0.9", {"'=>' is no comparison"});
  check("accuracy>=", {"'' is no number"});
  check("accuracy>=high", {"'high' is no number"});
  check("accuracy>=x", {"'x' is no number"});
  check("accuracy>=nan", {"no number"});
  check("accuracy>=0.9%", {"'0.9%' is no number"});
  check(">=0.9", {"unknown metric ''"});
  check("mcnemar_p>=2x", {"belongs to both models together"});
  check_refusal([] { require_answers(std::vector{parse_gate("token_f1>=0.5")}, false); }, ErrorCode::kUsage,
                {"add --answers"});
}

}  // namespace vlmzoo::test
