#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evaluation/predictions.hpp"
#include "output.hpp"
#include "vlmzoo/metrics.hpp"

namespace vlmzoo::app {

struct EvaluateOptions {
  BootstrapOptions bootstrap;
  std::int64_t bins = 15;  ///< of the calibration error
};

/// How good the answers in words are.
struct AnswerEvaluation {
  std::int64_t n = 0;          ///< samples that were asked
  std::int64_t named = 0;      ///< answers that name a class at all
  std::int64_t right = 0;      ///< answers that name the label's class
  std::int64_t identical = 0;  ///< answers equal to the expected ones, of `expected`
  std::int64_t expected = 0;   ///< samples with an expected answer
  Interval interval;           ///< of right / n: bootstrap, 95 %
  Interval exact;              ///< the same by Clopper and Pearson
  LatencySummary latency;      ///< ms
};

/// All that `eval` reports of one run.
struct Evaluation {
  std::string model, model_type;
  std::vector<std::string> class_names;
  std::int64_t n = 0;                  ///< pictures with a prediction and a label; the rest of this counts them alone
  std::int64_t errors = 0;             ///< pictures without a prediction
  ClassificationMetrics metrics;       ///< of probabilities at `temperature`
  ClassificationMetrics uncalibrated;  ///< of probabilities at temperature 1
  double temperature = 1;
  std::string temperature_source;
  std::int64_t calibration_items = 0;                                         ///< as in ModelRun
  Interval accuracy_interval, balanced_accuracy_interval, macro_f1_interval;  ///< bootstrap
  Interval accuracy_exact;                                                    ///< Clopper-Pearson
  LatencySummary latency;                                                     ///< ms
  std::int64_t cached = 0;                                                    ///< of n, from the cache
  double load_seconds = 0;
  std::uint64_t peak_memory = 0, weight_bytes = 0;
  bool measured_earlier = false;
  RolePrecision precision;
  bool fresh_head = false, interrupted = false;
  std::optional<AnswerEvaluation> answers;
};

/// Error: kMismatch when no prediction has a class and a label.
Evaluation evaluate(const ModelRun& run, const EvaluateOptions& options = {});

inline constexpr std::int64_t kFewestToCalibrate = 10;  ///< a temperature fitted on fewer pictures would be noise

/// Sets `run`'s temperature to the one that suits `validation`, a run of the same model over other pictures; leaves it
/// alone where that has fewer than kFewestToCalibrate labelled predictions.
void calibrate(ModelRun& run, const ModelRun& validation);

/// n, accuracy, accuracy_ci, accuracy_ci_exact, balanced_accuracy, macro_f1, ece, nll, per_class, confusion, …:
/// docs/evaluation.md has them all.
OrderedJson to_json(const Evaluation& evaluation);

/// Tables for people.
std::string to_text(const Evaluation& evaluation);

/// One row for each sample: sample_id, image, label, prediction, correct, probability, probability of each class,
/// latency_ms, cached, error, and the answer's columns where answers were asked for. Text cells that a spreadsheet
/// would take for a formula are left as they are.
std::string predictions_csv(const ModelRun& run);

/// Probabilities of K classes of one prediction at the run's temperature; empty where it has none.
std::vector<double> class_probabilities(const Prediction& prediction, double temperature);

/// The class with the highest logit, the first of equals; -1 where there is no prediction.
std::int64_t predicted_class(const Prediction& prediction);

/// The class whose name occurs first in the answer, as a whole word in any case; of names that begin there, the
/// longest. -1 when none does.
std::int64_t class_named(const std::string& answer, std::span<const std::string> class_names);

/// As class_named(); where an answer names no class, what the data gives as answer (in any case, blanks and full stops
/// aside) for pictures of one class only stands for that class. Classes of all predictions, -1 for none.
std::vector<std::int64_t> answered_classes(const ModelRun& run);

}  // namespace vlmzoo::app
