#include <fmt/format.h>

#include <algorithm>

#include "data/csv.hpp"
#include "evaluation/evaluation.hpp"
#include "table.hpp"
#include "vlmzoo/system.hpp"

/// An Evaluation for programs, for people and for spreadsheets.
namespace vlmzoo::app {
namespace {

OrderedJson to_json(const Interval& interval) { return OrderedJson::array({interval.low, interval.high}); }

OrderedJson to_json(const LatencySummary& latency) {
  return {
      {"p50", latency.p50}, {"p95", latency.p95}, {"p99", latency.p99}, {"mean", latency.mean}, {"max", latency.max}};
}

OrderedJson to_json(const AnswerEvaluation& answers) {
  return {{"n", answers.n},
          {"accuracy", static_cast<double>(answers.right) / static_cast<double>(answers.n)},
          {"accuracy_ci", to_json(answers.interval)},
          {"accuracy_ci_exact", to_json(answers.exact)},
          {"right", answers.right},
          {"named_a_class", answers.named},
          {"expected_answers", answers.expected},
          {"identical", answers.identical},
          {"latency_ms", to_json(answers.latency)}};
}

OrderedJson per_class(const Evaluation& evaluation) {
  OrderedJson result = OrderedJson::array();
  for (std::size_t i = 0; i < evaluation.class_names.size(); ++i) {
    const ClassMetrics& metrics = evaluation.metrics.per_class[i];
    result.push_back({{"class", evaluation.class_names[i]},
                      {"precision", metrics.precision},
                      {"recall", metrics.recall},
                      {"f1", metrics.f1},
                      {"support", metrics.support}});
  }
  return result;
}

OrderedJson rows_of(const ConfusionMatrix& confusion) {
  OrderedJson result = OrderedJson::array();
  for (std::int64_t label = 0; label < confusion.classes; ++label) {
    OrderedJson row = OrderedJson::array();
    for (std::int64_t predicted = 0; predicted < confusion.classes; ++predicted) {
      row.push_back(confusion.at(label, predicted));
    }
    result.push_back(std::move(row));
  }
  return result;
}

std::string with_interval(double value, const Interval& interval) {
  return fmt::format("{:.4f}  [{:.4f}, {:.4f}]", value, interval.low, interval.high);
}

std::string temperature_text(const Evaluation& evaluation) {
  const std::string& source = evaluation.temperature_source;
  if (source == "validation") {
    return fmt::format("{:.3f}, fitted on {} pictures of the validation split", evaluation.temperature,
                       grouped(evaluation.calibration_items));
  }
  if (source == "head") return fmt::format("{:.3f}, from the head file", evaluation.temperature);
  if (evaluation.interrupted) return "1 (not fitted: interrupted before)";
  return "1 (not fitted: no 10 pictures of a validation split beside those evaluated)";
}

std::string latency_text(const LatencySummary& latency) {
  return fmt::format("p50 {:.1f}, p95 {:.1f}, p99 {:.1f}, mean {:.1f} ms", latency.p50, latency.p95, latency.p99,
                     latency.mean);
}

std::string metrics_table(const Evaluation& e) {
  Table table({"metric", "value"});
  table.add({"pictures",
             e.errors == 0 ? grouped(e.n) : fmt::format("{} and {} that failed", grouped(e.n), grouped(e.errors))});
  table.add({"accuracy", with_interval(e.metrics.accuracy, e.accuracy_interval)});
  table.add({"  exact interval", fmt::format("[{:.4f}, {:.4f}]", e.accuracy_exact.low, e.accuracy_exact.high)});
  table.add({"balanced accuracy", with_interval(e.metrics.balanced_accuracy, e.balanced_accuracy_interval)});
  table.add({"macro F1", with_interval(e.metrics.macro_f1, e.macro_f1_interval)});
  table.add({"negative log-likelihood", fmt::format("{:.4f}  (uncalibrated {:.4f})", e.metrics.negative_log_likelihood,
                                                    e.uncalibrated.negative_log_likelihood)});
  table.add({"calibration error", fmt::format("{:.4f}  (uncalibrated {:.4f})", e.metrics.calibration_error,
                                              e.uncalibrated.calibration_error)});
  table.add({"temperature", temperature_text(e)});
  table.add({"latency", latency_text(e.latency)});
  if (e.cached > 0) table.add({"  from the cache", fmt::format("{} of {}, with the times of then", e.cached, e.n)});
  const char* earlier = e.measured_earlier ? " (measured earlier)" : "";
  if (e.peak_memory > 0) {
    table.add({"load time", fmt::format("{:.2f} s{}", e.load_seconds, earlier)});
    table.add({"peak memory",
               fmt::format("{} (weights {}){}", format_bytes(e.peak_memory), format_bytes(e.weight_bytes), earlier)});
  }
  if (e.answers) {
    const AnswerEvaluation& a = *e.answers;
    table.add({"answers that name the class",
               with_interval(static_cast<double>(a.right) / static_cast<double>(a.n), a.interval)});
    table.add({"  exact interval", fmt::format("[{:.4f}, {:.4f}]", a.exact.low, a.exact.high)});
    table.add({"  name none", fmt::format("{} of {}", a.n - a.named, a.n)});
    if (a.expected > 0) table.add({"  as expected word by word", fmt::format("{} of {}", a.identical, a.expected)});
    table.add({"  time", latency_text(a.latency)});
  }
  return table.text();
}

std::string classes_table(const Evaluation& e) {
  Table table({"class", ">pictures", ">precision", ">recall", ">F1"});
  for (std::size_t i = 0; i < e.class_names.size(); ++i) {
    const ClassMetrics& m = e.metrics.per_class[i];
    table.add({e.class_names[i], grouped(m.support), fmt::format("{:.4f}", m.precision),
               fmt::format("{:.4f}", m.recall), fmt::format("{:.4f}", m.f1)});
  }
  return table.text();
}

std::string confusion_table(const Evaluation& e) {
  std::vector<std::string> headers = {"label \\ prediction"};
  for (const std::string& name : e.class_names) headers.push_back(">" + name);
  Table table(headers);
  const auto classes = std::ssize(e.class_names);
  for (std::int64_t label = 0; label < classes; ++label) {
    std::vector<std::string> row = {e.class_names[static_cast<std::size_t>(label)]};
    for (std::int64_t i = 0; i < classes; ++i) row.push_back(grouped(e.metrics.confusion.at(label, i)));
    table.add(std::move(row));
  }
  return table.text();
}

std::string number(double value) { return fmt::format("{:.6g}", value); }

}  // namespace

OrderedJson to_json(const Evaluation& e) {
  OrderedJson json = {{"model", e.model},
                      {"model_type", e.model_type},
                      {"n", e.n},
                      {"errors", e.errors},
                      {"interrupted", e.interrupted},
                      {"accuracy", e.metrics.accuracy},
                      {"accuracy_ci", to_json(e.accuracy_interval)},
                      {"accuracy_ci_exact", to_json(e.accuracy_exact)},
                      {"balanced_accuracy", e.metrics.balanced_accuracy},
                      {"balanced_accuracy_ci", to_json(e.balanced_accuracy_interval)},
                      {"macro_f1", e.metrics.macro_f1},
                      {"macro_f1_ci", to_json(e.macro_f1_interval)},
                      {"nll", e.metrics.negative_log_likelihood},
                      {"nll_uncalibrated", e.uncalibrated.negative_log_likelihood},
                      {"ece", e.metrics.calibration_error},
                      {"ece_uncalibrated", e.uncalibrated.calibration_error},
                      {"temperature", e.temperature},
                      {"temperature_source", e.temperature_source},
                      {"calibration_items", e.calibration_items},
                      {"classes", e.class_names},
                      {"per_class", per_class(e)},
                      {"confusion", rows_of(e.metrics.confusion)},
                      {"latency_ms", to_json(e.latency)},
                      {"cached", e.cached},
                      {"load_seconds", e.load_seconds},
                      {"peak_memory_bytes", e.peak_memory},
                      {"weight_bytes", e.weight_bytes},
                      {"measured_earlier", e.measured_earlier},
                      {"precision", to_json(e.precision)},
                      {"fresh_head", e.fresh_head}};
  if (e.answers) json["answers"] = to_json(*e.answers);
  return json;
}

std::string to_text(const Evaluation& e) {
  constexpr std::size_t kMostColumns = 20;  // a wider matrix is for the report
  std::string result = metrics_table(e) + "\n" + classes_table(e);
  if (e.class_names.size() <= kMostColumns) result += "\n" + confusion_table(e);
  return result;
}

std::string predictions_csv(const ModelRun& run) {
  const bool answers = std::any_of(run.predictions.begin(), run.predictions.end(),
                                   [](const Prediction& p) { return !p.question.empty(); });
  const std::vector<std::int64_t> answered = answers ? answered_classes(run) : std::vector<std::int64_t>{};
  const auto name = [&](std::int64_t index) {
    return index < 0 ? std::string() : csv_cell(run.class_names[static_cast<std::size_t>(index)]);
  };
  std::string result = "sample_id,image,label,prediction,correct,probability";
  for (const std::string& class_name : run.class_names) result += "," + csv_cell("p_" + class_name);
  result += ",latency_ms,cached,error";
  if (answers) result += ",question,expected_answer,answer,answer_class,answer_ms";
  result += "\n";
  for (std::size_t i = 0; i < run.predictions.size(); ++i) {
    const Prediction& p = run.predictions[i];
    const std::int64_t predicted = predicted_class(p);
    std::vector<double> probability = class_probabilities(p, run.temperature);
    const bool known = predicted >= 0 && p.label >= 0;
    result += fmt::format("{},{},{},{},{},{}", csv_cell(p.sample_id), csv_cell(p.image.string()), name(p.label),
                          name(predicted),
                          !known                 ? ""
                          : p.label == predicted ? "1"
                                                 : "0",
                          predicted < 0 ? "" : number(probability[static_cast<std::size_t>(predicted)]));
    for (std::size_t k = 0; k < run.class_names.size(); ++k)
      result += "," + (predicted < 0 ? "" : number(probability[k]));
    result += fmt::format(",{},{},{}", predicted < 0 || p.latency_ms == 0 ? "" : number(p.latency_ms), p.cached ? 1 : 0,
                          csv_cell(p.error));
    if (answers) {
      result += fmt::format(",{},{},{},{},{}", csv_cell(p.question), csv_cell(p.expected_answer), csv_cell(p.answer),
                            name(answered[i]), number(p.answer_ms));
    }
    result += "\n";
  }
  return result;
}

}  // namespace vlmzoo::app
