#include "evaluation/evaluation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "evaluation/folded_text.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

bool counts(const Prediction& prediction) { return !prediction.logits.empty() && prediction.label >= 0; }

/// Logits and labels of the predictions that count.
Predictions scored(const ModelRun& run) {
  Predictions result;
  result.classes = std::ssize(run.class_names);
  for (const Prediction& prediction : run.predictions) {
    if (!counts(prediction)) continue;
    result.scores.insert(result.scores.end(), prediction.logits.begin(), prediction.logits.end());
    result.labels.push_back(prediction.label);
  }
  return result;
}

/// Bootstrap interval of a number that comes from the confusion matrix.
Interval interval_of(const Predictions& logits, double (*metric)(const ConfusionMatrix&),
                     const BootstrapOptions& bootstrap) {
  const std::vector<std::int64_t> predicted = predicted_classes(logits);
  const auto statistic = [&](std::span<const std::uint32_t> rows) {
    return metric(confusion_matrix(logits.labels, predicted, logits.classes, rows));
  };
  return bootstrap_interval(std::ssize(logits.labels), statistic, bootstrap);
}

/// Without case, with single blanks and without a full stop at the end.
std::string normalized(const std::string& answer) {
  std::string result;
  for (const char c : folded(answer)) {
    const bool blank = c == ' ' || c == '\n' || c == '\t' || c == '\r';
    if (!blank) {
      result += c;
    } else if (!result.empty() && result.back() != ' ') {
      result += ' ';
    }
  }
  while (!result.empty() && (result.back() == ' ' || result.back() == '.')) result.pop_back();
  return result;
}

std::optional<AnswerEvaluation> evaluate_answers(const ModelRun& run, const BootstrapOptions& bootstrap) {
  AnswerEvaluation result;
  std::vector<std::uint8_t> right;
  std::vector<double> milliseconds;
  const std::vector<std::int64_t> classes = answered_classes(run);
  for (std::size_t i = 0; i < run.predictions.size(); ++i) {
    const Prediction& prediction = run.predictions[i];
    if (!counts(prediction) || prediction.question.empty()) continue;
    right.push_back(classes[i] == prediction.label ? 1 : 0);
    milliseconds.push_back(prediction.answer_ms);
    result.named += classes[i] >= 0 ? 1 : 0;
    if (prediction.expected_answer.empty()) continue;
    ++result.expected;
    result.identical += normalized(prediction.answer) == normalized(prediction.expected_answer) ? 1 : 0;
  }
  if (right.empty()) return std::nullopt;
  result.n = std::ssize(right);
  result.right = std::count(right.begin(), right.end(), 1);
  result.interval = accuracy_interval(right, bootstrap);
  result.exact = exact_interval(result.right, result.n, bootstrap.level);
  result.latency = latency_summary(milliseconds);
  return result;
}

}  // namespace

Evaluation evaluate(const ModelRun& run, const EvaluateOptions& options) {
  const Predictions logits = scored(run);
  if (logits.labels.empty()) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("nothing to evaluate: none of {} pictures has both a label and a prediction",
                            run.predictions.size()));
  }
  Evaluation result;
  result.model = run.name;
  result.model_type = run.model_type;
  result.class_names = run.class_names;
  result.n = std::ssize(logits.labels);
  result.errors = run.errors();
  result.metrics = classification_metrics(calibrated(logits, run.temperature), options.bins);
  result.uncalibrated = classification_metrics(calibrated(logits), options.bins);
  result.temperature = run.temperature;
  result.temperature_source = run.temperature_source;
  result.calibration_items = run.calibration_items;
  result.accuracy_interval = interval_of(logits, accuracy, options.bootstrap);
  result.balanced_accuracy_interval = interval_of(logits, balanced_accuracy, options.bootstrap);
  result.macro_f1_interval = interval_of(logits, macro_f1, options.bootstrap);
  const auto right = static_cast<std::int64_t>(std::llround(result.metrics.accuracy * static_cast<double>(result.n)));
  result.accuracy_exact = exact_interval(right, result.n, options.bootstrap.level);
  std::vector<double> latencies;
  for (const Prediction& prediction : run.predictions) {
    if (!counts(prediction)) continue;
    latencies.push_back(prediction.latency_ms);
    result.cached += prediction.cached ? 1 : 0;
  }
  result.latency = latency_summary(latencies);
  result.load_seconds = run.load_seconds;
  result.peak_memory = run.peak_memory;
  result.weight_bytes = run.weight_bytes;
  result.measured_earlier = run.measured_earlier;
  result.precision = run.precision;
  result.fresh_head = run.fresh_head;
  result.interrupted = run.interrupted;
  result.answers = evaluate_answers(run, options.bootstrap);
  return result;
}

void calibrate(ModelRun& run, const ModelRun& validation) {
  const Predictions logits = scored(validation);
  if (std::ssize(logits.labels) < kFewestToCalibrate) return;
  run.temperature = fit_temperature(logits);
  run.calibration_items = std::ssize(logits.labels);
  run.temperature_source = "validation";
}

std::vector<double> class_probabilities(const Prediction& prediction, double temperature) {
  if (prediction.logits.empty()) return {};
  Predictions one;
  one.classes = std::ssize(prediction.logits);
  one.scores = prediction.logits;
  one.labels = {0};
  return calibrated(one, temperature).scores;
}

std::int64_t predicted_class(const Prediction& prediction) {
  const auto& logits = prediction.logits;
  return logits.empty() ? -1 : std::max_element(logits.begin(), logits.end()) - logits.begin();
}

std::int64_t class_named(const std::string& answer, std::span<const std::string> class_names) {
  const std::string text = normalized(answer);
  std::int64_t result = -1;
  std::size_t first = std::string::npos, length = 0;
  for (std::size_t i = 0; i < class_names.size(); ++i) {
    const std::string name = normalized(class_names[i]);
    const std::size_t at = find_word(text, name);
    if (at == std::string::npos || at > first || (at == first && name.size() <= length)) continue;
    result = static_cast<std::int64_t>(i);
    first = at;
    length = name.size();
  }
  return result;
}

std::vector<std::int64_t> answered_classes(const ModelRun& run) {
  std::map<std::string, std::int64_t> by_answer;  // -1: of several classes
  for (const Prediction& prediction : run.predictions) {
    if (prediction.expected_answer.empty() || prediction.label < 0) continue;
    const auto [it, added] = by_answer.try_emplace(normalized(prediction.expected_answer), prediction.label);
    if (!added && it->second != prediction.label) it->second = -1;
  }
  std::vector<std::int64_t> result;
  for (const Prediction& prediction : run.predictions) {
    std::int64_t named = prediction.answer.empty() ? -1 : class_named(prediction.answer, run.class_names);
    if (named < 0 && !prediction.answer.empty()) {
      const auto found = by_answer.find(normalized(prediction.answer));
      if (found != by_answer.end()) named = found->second;
    }
    result.push_back(named);
  }
  return result;
}

}  // namespace vlmzoo::app
