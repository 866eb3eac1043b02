#include "evaluation/evaluation.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "cache.hpp"
#include "data/csv.hpp"
#include "support.hpp"
#include "vlmzoo/log.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;
using test::code_of;
using test::TemporaryFolder;

RecordKey key(const std::string& name) { return record_key(std::vector<std::string>{name}); }

/// Sets a variable of the environment for a while.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), /*overwrite=*/1);
  }
  ~Variable() { old_.empty() ? ::unsetenv(name_) : ::setenv(name_, old_.c_str(), 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string old_;
};

Prediction prediction(std::string id, std::int64_t label, std::vector<double> logits, double latency = 10) {
  Prediction result;
  result.sample_id = std::move(id);
  result.image = "pictures/" + result.sample_id;
  result.label = label;
  result.logits = std::move(logits);
  result.latency_ms = latency;
  return result;
}

ModelRun run_of(std::vector<Prediction> predictions) {
  ModelRun run;
  run.name = "model";
  run.model_type = "tiny";
  run.class_names = {"none", "one", "several"};
  run.predictions = std::move(predictions);
  return run;
}

/// 5 pictures, 3 of them right.
ModelRun small_run() {
  return run_of({prediction("a", 0, {2, 0, 0}, 1), prediction("b", 0, {0, 2, 0}, 2), prediction("c", 1, {0, 3, 0}, 3),
                 prediction("d", 2, {0, 0, 1}, 4), prediction("e", 2, {1, 0, 0}, 100)});
}

EvaluateOptions quick() {
  EvaluateOptions options;
  options.bootstrap.resamples = 500;
  return options;
}

}  // namespace

TEST_CASE("a store gives back what was put, the later of two records, and nothing for other keys") {
  const TemporaryFolder folder;
  const fs::path file = folder / "some" / "folders" / "store";
  const std::string binary("\0\n\xFF", 3);
  {
    RecordStore store(file);
    CHECK_FALSE(store.get(key("a")));
    store.put(key("a"), "first");
    store.put(key("b"), binary);
    store.put(key("a"), "second");
    store.put(key("empty"), "");
    CHECK(store.get(key("a")) == "second");
  }
  const RecordStore again(file);
  CHECK(again.size() == 3);
  CHECK(again.get(key("a")) == "second");
  CHECK(again.get(key("b")) == binary);
  CHECK(again.get(key("empty")) == "");
  CHECK_FALSE(again.get(key("c")));
}

TEST_CASE("keys tell apart where a part ends") {
  CHECK(record_key(std::vector<std::string>{"ab", "c"}) != record_key(std::vector<std::string>{"a", "bc"}));
  CHECK(record_key(std::vector<std::string>{"ab"}) != record_key(std::vector<std::string>{"ab", ""}));
}

TEST_CASE("a store cut anywhere keeps its whole records, and the next record goes where the broken one was") {
  const TemporaryFolder folder;
  const fs::path file = folder / "store";
  {
    RecordStore store(file);
    store.put(key("kept"), "kept payload");
  }
  const auto first = fs::file_size(file);
  {
    RecordStore store(file);
    store.put(key("cut"), "a payload that a crash will cut");
  }
  const auto whole = fs::file_size(file);
  const fs::path copy = folder / "copy";
  for (auto size = first; size < whole; ++size) {
    fs::copy_file(file, copy, fs::copy_options::overwrite_existing);
    fs::resize_file(copy, size);
    CAPTURE(size);
    {
      RecordStore store(copy);
      CHECK(store.get(key("kept")) == "kept payload");
      CHECK_FALSE(store.get(key("cut")));
      store.put(key("new"), "new payload");
    }
    const RecordStore store(copy);
    CHECK(store.size() == 2);
    CHECK(store.get(key("new")) == "new payload");
  }
}

TEST_CASE("a record with a flipped bit is absent, whichever bit it is, and a file of something else is no store") {
  const TemporaryFolder folder;
  const fs::path file = folder / "store";
  {
    RecordStore store(file);
    store.put(key("a"), "payload");
  }
  const std::string good = read_file(file);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    write_file(file, bad);
    CAPTURE(i);
    const RecordStore store(file);
    CHECK_FALSE(store.get(key("a")));
  }
  write_file(file, "something else altogether, and longer than the header of a record is");
  RecordStore store(file);
  CHECK(store.size() == 0);
  store.put(key("a"), "payload");
  CHECK(store.get(key("a")) == "payload");
}

TEST_CASE("two stores on one file, written to at once, lose nothing") {
  const TemporaryFolder folder;
  const auto fill = [&](const char* name) {
    RecordStore store(folder / "store");
    for (int i = 0; i < 200; ++i)
      store.put(key(fmt::format("{}{}", name, i)), std::string(static_cast<std::size_t>(i), *name));
  };
  {
    const std::jthread other(fill, "x");
    fill("y");
  }
  const RecordStore store(folder / "store");
  CHECK(store.size() == 400);
  for (int i = 0; i < 200; ++i) {
    CHECK(store.get(key(fmt::format("x{}", i))) == std::string(static_cast<std::size_t>(i), 'x'));
    CHECK(store.get(key(fmt::format("y{}", i))) == std::string(static_cast<std::size_t>(i), 'y'));
  }
}

TEST_CASE("a cache that can't be written to is a warning, not an error") {
  set_log_level(LogLevel::kQuiet);
  RecordStore full("/dev/full");
  full.put(key("a"), "payload");
  CHECK_FALSE(full.get(key("a")));

  const TemporaryFolder folder;
  write_file(folder / "vlmzoo", "a file where the cache's folder should be");
  const Variable variable("XDG_CACHE_HOME", folder.path().string());
  CHECK(CacheOptions{}.open("results", "abc") == nullptr);
  set_log_level(LogLevel::kInfo);
}

TEST_CASE("the cache lies in XDG_CACHE_HOME, else below HOME, and --no-cache means none") {
  const TemporaryFolder folder;
  const Variable home("HOME", "/home/someone");
  {
    const Variable variable("XDG_CACHE_HOME", folder.path().string());
    CHECK(cache_folder() == folder / "vlmzoo");
    CacheOptions options;
    const auto store = options.open("results", "abc");
    REQUIRE(store != nullptr);
    CHECK(store->file() == folder / "vlmzoo" / "results" / "abc");
    options.no_cache = true;
    CHECK(options.open("results", "abc") == nullptr);
  }
  const Variable relative("XDG_CACHE_HOME", "relative/path");
  CHECK(cache_folder() == "/home/someone/.cache/vlmzoo");
}

TEST_CASE("an evaluation holds the numbers that its predictions give") {
  const Evaluation evaluation = evaluate(small_run(), quick());
  CHECK(evaluation.n == 5);
  CHECK(evaluation.errors == 0);
  CHECK(evaluation.metrics.accuracy == doctest::Approx(0.6));
  CHECK(evaluation.metrics.balanced_accuracy == doctest::Approx((0.5 + 1 + 0.5) / 3));
  // none: 1 of 2 right, one wrongly taken for it; one: 1 of 1, one wrongly; several: 1 of 2.
  CHECK(evaluation.metrics.macro_f1 == doctest::Approx((0.5 + 2.0 / 3 + 2.0 / 3) / 3));
  CHECK(evaluation.metrics.per_class[1].precision == doctest::Approx(0.5));
  CHECK(evaluation.metrics.per_class[1].recall == doctest::Approx(1));
  CHECK(evaluation.metrics.confusion.at(0, 1) == 1);
  CHECK(evaluation.metrics.confusion.at(2, 0) == 1);
  const double e = std::exp(1.0);
  const double nll = (std::log(1 + 2 / (e * e)) + std::log(2 + e * e) + std::log(1 + 2 / (e * e * e)) +
                      std::log(1 + 2 / e) + std::log(2 + e)) /
                     5;
  CHECK(evaluation.metrics.negative_log_likelihood == doctest::Approx(nll));
  CHECK(evaluation.accuracy_exact.low == doctest::Approx(0.14663).epsilon(1e-4));  // scipy: binomtest(3, 5)
  CHECK(evaluation.accuracy_exact.high == doctest::Approx(0.94726).epsilon(1e-4));
  CHECK(evaluation.accuracy_interval.low < 0.6);
  CHECK(evaluation.accuracy_interval.high > 0.6);
  CHECK(evaluation.latency.p50 == doctest::Approx(3));
  CHECK(evaluation.latency.mean == doctest::Approx(22));
  CHECK(evaluation.temperature == 1);
  CHECK(evaluation.temperature_source == "none");
  CHECK_FALSE(evaluation.answers);
}

TEST_CASE("pictures without a prediction or a label count in no metric, and only such are an error") {
  ModelRun run = small_run();
  run.predictions.push_back(prediction("unlabelled", -1, {0, 9, 0}));
  Prediction broken = prediction("broken", 1, {});
  broken.error = "broken.jpg: truncated";
  run.predictions.push_back(broken);
  const Evaluation evaluation = evaluate(run, quick());
  CHECK(evaluation.n == 5);
  CHECK(evaluation.errors == 1);
  CHECK(evaluation.metrics.accuracy == doctest::Approx(0.6));
  run.predictions.erase(run.predictions.begin(), run.predictions.begin() + 5);
  CHECK(code_of([&] { evaluate(run); }) == ErrorCode::kMismatch);
  CHECK(code_of([&] { evaluate(run_of({})); }) == ErrorCode::kMismatch);
}

TEST_CASE("where all is right the bootstrap is a point, and the exact interval says what so few pictures allow") {
  const Evaluation evaluation =
      evaluate(run_of({prediction("a", 0, {5, 0, 0}), prediction("b", 1, {0, 5, 0}), prediction("c", 2, {0, 0, 5})}));
  CHECK(evaluation.metrics.accuracy == 1);
  CHECK(evaluation.accuracy_interval.low == 1);
  CHECK(evaluation.accuracy_exact.low == doctest::Approx(0.29240).epsilon(1e-4));  // 0.025^(1/3)
  CHECK(evaluation.accuracy_exact.high == 1);
  const Evaluation one = evaluate(run_of({prediction("a", 0, {5, 0, 0})}));
  CHECK(one.n == 1);
  CHECK(one.accuracy_exact.low == doctest::Approx(0.025));
}

TEST_CASE("JSON of an evaluation has the keys that programs read") {
  const OrderedJson json = to_json(evaluate(small_run(), quick()));
  for (const char* name :
       {"n", "accuracy", "accuracy_ci", "macro_f1", "ece", "per_class", "confusion", "nll", "temperature", "latency_ms",
        "peak_memory_bytes", "model", "errors", "balanced_accuracy", "interrupted"}) {
    CAPTURE(name);
    CHECK(json.contains(name));
  }
  CHECK(json["accuracy_ci"].size() == 2);
  CHECK(json["confusion"] == OrderedJson::parse("[[1,1,0],[0,1,0],[1,0,1]]"));
  CHECK(json["latency_ms"]["p99"].get<double>() > 50);
  CHECK_FALSE(json.contains("answers"));
}

TEST_CASE("the temperature of validation pictures improves the likelihood; too few leave it alone") {
  // Sure of everything, right in two thirds: far too sharp.
  std::vector<Prediction> predictions;
  for (int i = 0; i < 30; ++i) {
    predictions.push_back(prediction(std::to_string(i), i % 3 == 0 ? 1 : 0, {12, 0, 0}));
  }
  const ModelRun validation = run_of(predictions);
  ModelRun run = validation;
  calibrate(run, validation);
  CHECK(run.temperature > 3);
  CHECK(run.temperature_source == "validation");
  const Evaluation evaluation = evaluate(run, quick());
  CHECK(evaluation.calibration_items == 30);
  CHECK(evaluation.metrics.negative_log_likelihood < evaluation.uncalibrated.negative_log_likelihood);
  CHECK(evaluation.metrics.calibration_error < evaluation.uncalibrated.calibration_error);
  CHECK(evaluation.metrics.accuracy == evaluation.uncalibrated.accuracy);

  ModelRun few = small_run();
  calibrate(few, small_run());
  CHECK(few.temperature == 1);
  CHECK(few.temperature_source == "none");
}

TEST_CASE("an answer names the class whose name comes first as a whole word") {
  const std::vector<std::string> names = {"none", "one", "several"};
  CHECK(class_named("There are SEVERAL receipts.", names) == 2);
  CHECK(class_named("one, not several", names) == 1);
  CHECK(class_named("None.", names) == 0);
  CHECK(class_named("someone is there", names) == -1);
  CHECK(class_named("one_hundred", names) == -1);
  CHECK(class_named("on\xC3\xA9 and one\xC3\xA9", names) == -1);
  CHECK(class_named("(one)", names) == 1);
  CHECK(class_named("\u201Cseveral\u201D", names) == 2);
  CHECK(class_named("none\u2026 or one\u2014", names) == 0);
  const std::vector<std::string> fruit = {"\u00C4pfel", "Birnen"};
  CHECK(class_named("viele \u00C4PFEL, keine Birnen", fruit) == 0);
  CHECK(class_named("Brat\u00E4pfel", fruit) == -1);
  CHECK(class_named("", names) == -1);
  const std::vector<std::string> longer = {"one", "one hundred", "C++"};
  CHECK(class_named("one hundred of them", longer) == 1);
  CHECK(class_named("one  of them", longer) == 0);
  CHECK(class_named("it is C++ code", longer) == 2);
}

TEST_CASE("an answer that the data gives for one class only stands for that class") {
  ModelRun run = small_run();
  for (Prediction& p : run.predictions) p.question = "How many?";
  run.predictions[0].expected_answer = "There are no receipts.";
  run.predictions[1].expected_answer = "something ambiguous";
  run.predictions[2].expected_answer = "Something  ambiguous.";
  run.predictions[0].answer = "there are no  receipts";  // label none: right
  run.predictions[1].answer = "there are no receipts.";  // label none: right
  run.predictions[2].answer = "something ambiguous";     // of two classes: names none
  run.predictions[3].answer = "one or several";          // label several: wrong
  CHECK(answered_classes(run) == std::vector<std::int64_t>{0, 0, -1, 1, -1});
  const Evaluation evaluation = evaluate(run, quick());
  REQUIRE(evaluation.answers);
  CHECK(evaluation.answers->n == 5);
  CHECK(evaluation.answers->right == 2);
  CHECK(evaluation.answers->named == 3);
  CHECK(evaluation.answers->expected == 3);
  CHECK(evaluation.answers->identical == 2);
  CHECK(to_json(evaluation)["answers"]["accuracy"].get<double>() == doctest::Approx(0.4));
}

TEST_CASE("the table of predictions reads back, whatever ids, classes and answers hold") {
  ModelRun run = small_run();
  run.class_names[1] = "one, \"single\"";
  run.predictions[0].sample_id = "a,b\nc.jpg";
  run.predictions[0].question = "How many?";
  run.predictions[0].answer = "\"two\", I think";
  run.predictions[3].label = -1;
  run.predictions[4].logits.clear();
  run.predictions[4].error = "broken";
  run.temperature = 2;
  const std::vector<CsvRow> rows = parse_csv(predictions_csv(run), "predictions.csv");
  REQUIRE(rows.size() == 6);
  const auto cell = [&](std::size_t row, const std::string& column) {
    const auto& header = rows[0].cells;
    const auto at = std::find(header.begin(), header.end(), column);
    REQUIRE(at != header.end());
    return rows[row].cells.at(static_cast<std::size_t>(at - header.begin()));
  };
  for (const CsvRow& row : rows) CHECK(row.cells.size() == rows[0].cells.size());
  CHECK(cell(1, "sample_id") == "a,b\nc.jpg");
  CHECK(cell(1, "correct") == "1");
  CHECK(cell(2, "prediction") == "one, \"single\"");
  CHECK(cell(2, "correct") == "0");
  CHECK(std::stod(cell(1, "p_none")) == doctest::Approx(std::exp(1.0) / (std::exp(1.0) + 2)).epsilon(1e-5));
  CHECK(cell(1, "probability") == cell(1, "p_none"));
  CHECK(cell(1, "answer") == "\"two\", I think");
  CHECK(cell(4, "correct").empty());
  CHECK(cell(4, "prediction") == "several");
  CHECK(cell(5, "error") == "broken");
  CHECK(cell(5, "prediction").empty());
  CHECK(cell(5, "p_none").empty());
}

}  // namespace vlmzoo::app
