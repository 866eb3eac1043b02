#include "evaluation/evaluation_report.hpp"

#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "report/charts.hpp"
#include "table.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

using report::Page;
using report::Tone;

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string interval_text(const Interval& interval) {
  return fmt::format("{} to {}", percent(interval.low), percent(interval.high));
}

const std::string& class_name(const ModelRun& run, std::int64_t index) {
  return run.class_names[static_cast<std::size_t>(index)];
}

void add_summary(Page& page, const Evaluation& e) {
  std::string text = fmt::format("95 % interval {} (bootstrap), {} (exact). Macro F1 {:.3f}, balanced accuracy {}.",
                                 interval_text(e.accuracy_interval), interval_text(e.accuracy_exact),
                                 e.metrics.macro_f1, percent(e.metrics.balanced_accuracy));
  Tone tone = Tone::kNeutral;
  if (e.errors > 0) {
    text += fmt::format(" {} pictures gave no prediction and count nowhere.", grouped(e.errors));
    tone = Tone::kWarning;
  }
  if (e.interrupted) {
    text += " The run was interrupted: later pictures, or the calibration, are missing.";
    tone = Tone::kWarning;
  }
  if (e.fresh_head) {
    text += " The head is freshly initialised (untrained), so its classes mean nothing.";
    tone = Tone::kWarning;
  }
  page.verdict(fmt::format("{} of {} pictures right", percent(e.metrics.accuracy), grouped(e.n)), text, tone);
}

void add_metrics(Page& page, const Evaluation& e) {
  page.section("Metrics");
  const auto row = [](const char* name, double value, const Interval& interval) {
    return std::vector<std::string>{name, fmt::format("{:.4f}", value),
                                    fmt::format("{:.4f} to {:.4f}", interval.low, interval.high)};
  };
  const auto calibration = [](const char* name, double value, double before) {
    return std::vector<std::string>{name, fmt::format("{:.4f}", value), fmt::format("uncalibrated {:.4f}", before)};
  };
  std::vector<std::vector<std::string>> rows = {
      row("accuracy", e.metrics.accuracy, e.accuracy_interval),
      row("accuracy, exact interval", e.metrics.accuracy, e.accuracy_exact),
      row("balanced accuracy", e.metrics.balanced_accuracy, e.balanced_accuracy_interval),
      row("macro F1", e.metrics.macro_f1, e.macro_f1_interval),
      calibration("negative log-likelihood", e.metrics.negative_log_likelihood, e.uncalibrated.negative_log_likelihood),
      calibration("calibration error", e.metrics.calibration_error, e.uncalibrated.calibration_error),
  };
  page.table({"metric", ">value", "95 % interval"}, rows);
  page.paragraph(
      e.temperature_source == "validation"
          ? fmt::format("Probabilities are at temperature {:.3f}, fitted on {} pictures of the validation "
                        "split.",
                        e.temperature, grouped(e.calibration_items))
      : e.temperature_source == "head"
          ? fmt::format("Probabilities are at temperature {:.3f}, which the head file holds.", e.temperature)
      : e.interrupted
          ? "No temperature was fitted: the run was interrupted before."
          : "No temperature was fitted: there are no 10 pictures of a validation split beside those evaluated.");
  add_class_table(page, e);
}

void add_charts(Page& page, const Evaluation& e, const ModelRun& run) {
  page.section("Charts");
  report::BarChart bars{"Share of right pictures", "share, with 95 % intervals", {}, 1};
  bars.bars = {{"accuracy", e.metrics.accuracy, e.accuracy_interval, ""},
               {"balanced accuracy", e.metrics.balanced_accuracy, e.balanced_accuracy_interval, ""},
               {"macro F1", e.metrics.macro_f1, e.macro_f1_interval, ""}};
  page.figure(report::bar_chart(bars));
  page.figure(report::confusion_chart("Which class was taken for which", e.metrics.confusion, e.class_names));
  if (e.temperature != 1) {
    page.figure(report::reliability_diagram("Reliability before temperature scaling", e.uncalibrated.bins));
    page.figure(report::reliability_diagram("Reliability after temperature scaling", e.metrics.bins));
  } else {
    page.figure(report::reliability_diagram("Reliability", e.metrics.bins));
  }
  report::Histogram latency{"Latency", "ms from the decoded picture to its class", {{run.model_type, {}}}};
  for (const Prediction& p : run.predictions) {
    if (!p.logits.empty()) latency.series[0].second.push_back(p.latency_ms);
  }
  page.figure(report::histogram(latency), e.cached > 0 ? fmt::format("{} of {} from the cache, with the times of then.",
                                                                     grouped(e.cached), grouped(e.n))
                                                       : "");
}

void add_cost(Page& page, const Evaluation& e) {
  page.section("Time and memory");
  const auto milliseconds = [](double value) { return fmt::format("{:.1f} ms", value); };
  std::vector<std::vector<std::string>> rows = {{"latency, median", milliseconds(e.latency.p50)},
                                                {"latency, 95th percentile", milliseconds(e.latency.p95)},
                                                {"latency, 99th percentile", milliseconds(e.latency.p99)},
                                                {"latency, mean", milliseconds(e.latency.mean)}};
  if (e.peak_memory > 0) {
    rows.push_back({"load time", fmt::format("{:.2f} s", e.load_seconds)});
    rows.push_back({"peak memory", format_bytes(e.peak_memory)});
  }
  rows.push_back({"weights", format_bytes(e.weight_bytes)});
  rows.push_back({"precision", describe(e.precision)});
  page.table({"", ">"}, rows);
  if (e.measured_earlier) {
    page.paragraph("Everything came from the cache; load time and memory are those of the run that filled it.");
  }
}

void add_answers(Page& page, const Evaluation& e, const ModelRun& run) {
  if (!e.answers) return;
  const AnswerEvaluation& a = *e.answers;
  page.section("Answers in words");
  page.paragraph(fmt::format("{} of {} answers name the right class ({}; 95 % interval {}, exact {}). {} name none.",
                             grouped(a.right), grouped(a.n),
                             percent(static_cast<double>(a.right) / static_cast<double>(a.n)),
                             interval_text(a.interval), interval_text(a.exact), grouped(a.n - a.named)));
  constexpr std::size_t kMost = 24;
  std::vector<report::Thumbnail> wrong;
  const std::vector<std::int64_t> classes = answered_classes(run);
  for (std::size_t i = 0; i < run.predictions.size() && wrong.size() < kMost; ++i) {
    const Prediction& p = run.predictions[i];
    if (p.question.empty() || p.logits.empty() || p.label < 0 || classes[i] == p.label) continue;
    wrong.push_back({p.image, p.sample_id, {"label: " + class_name(run, p.label), "answer: " + p.answer}, Tone::kBad});
  }
  if (!wrong.empty()) page.paragraph("The first that don't:");
  page.thumbnails(wrong);
}

void add_errors(Page& page, const ModelRun& run) {
  if (run.errors() == 0) return;
  constexpr std::size_t kMost = 100;
  page.section("Pictures without a prediction");
  std::vector<std::vector<std::string>> rows;
  for (const Prediction& p : run.predictions) {
    if (!p.error.empty() && rows.size() < kMost) rows.push_back({p.sample_id, p.error});
  }
  page.table({"picture", "why"}, rows, rows.size() == kMost ? "the first 100" : "");
}

}  // namespace

double loss_of(const Prediction& prediction, double temperature) {
  const double p = class_probabilities(prediction, temperature)[static_cast<std::size_t>(prediction.label)];
  return -std::log(std::max(p, std::numeric_limits<double>::min()));
}

std::vector<report::Thumbnail> worst_mistakes(const ModelRun& run, std::size_t most) {
  std::vector<std::pair<double, const Prediction*>> mistakes;
  for (const Prediction& p : run.predictions) {
    if (p.logits.empty() || p.label < 0 || predicted_class(p) == p.label) continue;
    mistakes.emplace_back(loss_of(p, run.temperature), &p);
  }
  std::stable_sort(mistakes.begin(), mistakes.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  if (mistakes.size() > most) mistakes.resize(most);
  std::vector<report::Thumbnail> result;
  for (const auto& [loss, p] : mistakes) {
    const std::int64_t predicted = predicted_class(*p);
    const double probability = class_probabilities(*p, run.temperature)[static_cast<std::size_t>(predicted)];
    result.push_back({p->image,
                      p->sample_id,
                      {"label: " + class_name(run, p->label),
                       fmt::format("prediction: {} ({})", class_name(run, predicted), percent(probability)),
                       fmt::format("loss {:.2f}", loss)},
                      Tone::kBad});
  }
  return result;
}

void add_worst_mistakes(report::Page& page, const ModelRun& run) {
  page.section("Worst mistakes");
  const std::vector<report::Thumbnail> mistakes = worst_mistakes(run);
  if (mistakes.empty()) {
    page.paragraph("None among the pictures with a prediction and a label.");
  } else {
    page.paragraph("Highest loss first.");
    page.thumbnails(mistakes);
  }
}

void add_class_table(report::Page& page, const Evaluation& e) {
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < e.class_names.size(); ++i) {
    const ClassMetrics& m = e.metrics.per_class[i];
    rows.push_back({e.class_names[i], grouped(m.support), fmt::format("{:.4f}", m.precision),
                    fmt::format("{:.4f}", m.recall), fmt::format("{:.4f}", m.f1)});
  }
  page.table({"class", ">pictures", ">precision", ">recall", ">F1"}, rows);
}

std::string describe_program() {
  return fmt::format("vlmzoo {}, LibTorch {}, {}", VLMZOO_VERSION, TORCH_VERSION, describe_cpu());
}

void write_evaluation_report(const std::filesystem::path& file, const Evaluation& evaluation, const ModelRun& run,
                             const std::string& data) {
  Page page("Evaluation of " + run.name, fmt::format("{} on {}", run.model_type, data));
  add_summary(page, evaluation);
  add_metrics(page, evaluation);
  add_charts(page, evaluation, run);
  add_cost(page, evaluation);
  add_worst_mistakes(page, run);
  add_answers(page, evaluation, run);
  add_errors(page, run);
  page.section("How it was made");
  page.paragraph(describe_program());
  page.details("Resolved configuration", run.resolved_config);
  page.write(file);
}

}  // namespace vlmzoo::app
