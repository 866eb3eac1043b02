#include "training/training_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "evaluation/evaluation.hpp"
#include "evaluation/evaluation_report.hpp"
#include "report/charts.hpp"
#include "report/page.hpp"
#include "table.hpp"

namespace vlmzoo::app {
namespace {

using report::LineChart;
using report::Page;
using report::Series;
using report::Tone;

/// A curve over the steps of one member of the points.
template <class Point>
Series curve(const char* name, const std::vector<Point>& points, double Point::*value) {
  Series result{name, {}};
  for (const Point& point : points) result.points.push_back({static_cast<double>(point.step), point.*value});
  return result;
}

/// A member that no step has, or that is the same as the whole loss everywhere, is no curve.
bool worth_drawing(const std::vector<TrainingPoint>& points, double TrainingPoint::*value) {
  return std::any_of(points.begin(), points.end(), [value](const TrainingPoint& point) {
    return std::isfinite(point.*value) && point.*value != 0 && point.*value != point.loss;
  });
}

LineChart loss_chart(const TrainingReport& report) {
  LineChart chart{"Loss", "step", "loss", {}};
  chart.from_zero = true;
  chart.series.push_back(curve("training", report.training, &TrainingPoint::loss));
  if (worth_drawing(report.training, &TrainingPoint::classification_loss)) {
    chart.series.push_back(curve("classification", report.training, &TrainingPoint::classification_loss));
  }
  if (worth_drawing(report.training, &TrainingPoint::language_loss)) {
    chart.series.push_back(curve("language", report.training, &TrainingPoint::language_loss));
  }
  return chart;
}

void add_curves(Page& page, const TrainingReport& report) {
  page.section("Curves");
  page.figure(report::line_chart(loss_chart(report)));
  if (!report.validation_points.empty()) {
    LineChart loss{"Loss on the validation set", "step", "loss", {}};
    loss.from_zero = true;
    loss.series = {curve("classes", report.validation_points, &ValidationPoint::loss)};
    if (std::any_of(report.validation_points.begin(), report.validation_points.end(),
                    [](const ValidationPoint& point) { return std::isfinite(point.language_loss); })) {
      loss.series.push_back(curve("answers", report.validation_points, &ValidationPoint::language_loss));
    }
    page.figure(report::line_chart(loss));
    LineChart quality{"Accuracy on the validation set", "step", "share", {}};
    quality.series = {curve("accuracy", report.validation_points, &ValidationPoint::accuracy),
                      curve("macro F1", report.validation_points, &ValidationPoint::macro_f1)};
    page.figure(report::line_chart(quality));
  }
  page.figure(report::line_chart(
      {"Learning rate", "step", "rate", {curve("learning rate", report.training, &TrainingPoint::learning_rate)}}));
  LineChart norm{"Gradient norm", "step", "norm", {}};
  norm.log_y = true;
  norm.series = {curve("gradient norm", report.training, &TrainingPoint::gradient_norm)};
  page.figure(report::line_chart(norm));
}

void add_progress(Page& page, const TrainingReport& report) {
  if (report.training.empty()) {
    page.verdict("No step was taken yet", "", Tone::kWarning);
    return;
  }
  const TrainingPoint& last = report.training.back();
  std::string text =
      fmt::format("Loss {:.4f} at the first step, {:.4f} at the last.", report.training.front().loss, last.loss);
  if (!report.validation_points.empty()) {
    const auto& points = report.validation_points;
    const auto best = std::find_if(points.rbegin(), points.rend(), [](const auto& point) { return point.best; });
    const auto& kept = best != points.rend() ? *best : points.back();
    text +=
        fmt::format(" Kept is step {}: {:.1f} % of the validation set right.", grouped(kept.step), 100 * kept.accuracy);
  }
  page.verdict(fmt::format("{} steps, {:.4g} epochs", grouped(last.step), last.epoch), text, Tone::kNeutral);
}

void add_validation(Page& page, const ModelRun& run) {
  const bool labelled = std::any_of(run.predictions.begin(), run.predictions.end(),
                                    [](const Prediction& p) { return !p.logits.empty() && p.label >= 0; });
  if (!labelled) return;
  const Evaluation evaluation = evaluate(run);
  page.section("The validation set");
  page.paragraph(fmt::format(
      "{} pictures: accuracy {:.1f} % (95 % interval {:.1f} to {:.1f}), macro F1 {:.3f}, calibration error {:.4f} "
      "({:.4f} before temperature {:.3f}).",
      grouped(evaluation.n), 100 * evaluation.metrics.accuracy, 100 * evaluation.accuracy_exact.low,
      100 * evaluation.accuracy_exact.high, evaluation.metrics.macro_f1, evaluation.metrics.calibration_error,
      evaluation.uncalibrated.calibration_error, evaluation.temperature));
  add_class_table(page, evaluation);
  page.figure(
      report::confusion_chart("Which class was taken for which", evaluation.metrics.confusion, evaluation.class_names));
  page.figure(report::reliability_diagram("Reliability", evaluation.metrics.bins));
  add_worst_mistakes(page, run);
}

}  // namespace

void write_training_report(const std::filesystem::path& file, const TrainingReport& report) {
  Page page(report.title, describe_program());
  add_progress(page, report);
  if (!report.training.empty()) add_curves(page, report);
  add_validation(page, report.validation);
  page.section("How it was made");
  page.details("Resolved configuration", report.resolved_config);
  page.write(file);
}

}  // namespace vlmzoo::app
