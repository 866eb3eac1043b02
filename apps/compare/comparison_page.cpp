#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "compare/comparison_output.hpp"
#include "report/charts.hpp"

namespace vlmzoo::app {
namespace {

using report::Page;
using report::Tone;

constexpr std::size_t kMostPictures = 60;  // in a report; the CSV files have all

Tone tone_of(const Comparison& comparison) {
  switch (comparison.decision.replace) {
    case Replace::kYes:
      return Tone::kGood;
    case Replace::kNo:
      return Tone::kBad;
    case Replace::kUndecided:
      break;
  }
  return Tone::kWarning;
}

report::Svg accuracy_chart(const Comparison& c) {
  report::BarChart chart{.title = "Accuracy", .unit = "share of right classes", .bars = {}, .high = 1};
  chart.bars.push_back({"baseline", c.baseline.metrics.accuracy, c.baseline.accuracy_interval, ""});
  chart.bars.push_back({"candidate", c.candidate.metrics.accuracy, c.candidate.accuracy_interval, ""});
  for (std::size_t k = 0; k < std::min<std::size_t>(c.per_class.size(), 8); ++k) {
    const PairedCounts& counts = c.per_class[k].counts;
    if (counts.n() == 0) continue;
    const auto bar = [&](const char* who, std::int64_t right) {
      const double value = counts.share(right);
      chart.bars.push_back({fmt::format("{}, {}", c.class_names()[k], who), value,
                            exact_interval(right, counts.n(), 1 - c.options.alpha), ""});
    };
    bar("baseline", counts.both + counts.baseline_only);
    bar("candidate", counts.both + counts.candidate_only);
  }
  return report::bar_chart(chart);
}

report::Svg memory_chart(const Comparison& c) {
  report::BarChart chart{.title = "Memory", .unit = "GB", .bars = {}};
  const auto bar = [&](const char* label, std::uint64_t bytes) {
    if (bytes > 0) chart.bars.push_back({label, static_cast<double>(bytes) / 1e9, std::nullopt, ""});
  };
  bar("baseline, peak", c.baseline.peak_memory);
  bar("candidate, peak", c.candidate.peak_memory);
  bar("baseline, weights", c.baseline.weight_bytes);
  bar("candidate, weights", c.candidate.weight_bytes);
  return report::bar_chart(chart);
}

report::Svg latency_chart(const Comparison& c) {
  report::Histogram chart{.title = "Latency per picture", .x_label = "ms", .series = {}};
  for (const auto& [name, run] : {std::pair{"baseline", &c.baseline_run}, {"candidate", &c.candidate_run}}) {
    std::vector<double> values;
    for (const Prediction& prediction : run->predictions) values.push_back(prediction.latency_ms);
    chart.series.emplace_back(name, std::move(values));
  }
  return report::histogram(chart);
}

void add_charts(Page& page, const Comparison& c) {
  page.section("Charts");
  page.figure(accuracy_chart(c), "Bars of the whole: bootstrap intervals; of classes: exact ones (Clopper-Pearson).");
  page.figure(latency_chart(c), "From the decoded picture to its class, one picture at a time.");
  page.figure(report::reliability_diagram("Reliability, baseline", c.baseline.metrics.bins),
              fmt::format("Expected calibration error {:.4f}.", c.baseline.metrics.calibration_error));
  page.figure(report::reliability_diagram("Reliability, candidate", c.candidate.metrics.bins),
              fmt::format("Expected calibration error {:.4f}.", c.candidate.metrics.calibration_error));
  page.figure(memory_chart(c));
}

/// What a model said about an item: "candidate: one (0.93)", and its answer.
std::vector<std::string> said(const char* who, const ModelRun& run, std::size_t item) {
  const Prediction& prediction = run.predictions[item];
  const std::int64_t k = predicted_class(prediction);
  const std::vector<double> probabilities = class_probabilities(prediction, run.temperature);
  std::vector<std::string> lines = {fmt::format("{}: {} ({:.2f})", who, run.class_names[static_cast<std::size_t>(k)],
                                                probabilities[static_cast<std::size_t>(k)])};
  if (!prediction.answer.empty()) lines.push_back(fmt::format("“{}”", prediction.answer));
  return lines;
}

report::Thumbnail thumbnail(const Comparison& c, std::size_t item) {
  const Prediction &one = c.baseline_run.predictions[item], &other = c.candidate_run.predictions[item];
  const bool first = predicted_class(one) == one.label, second = predicted_class(other) == other.label;
  report::Thumbnail result{one.image,
                           one.sample_id,
                           {},
                           second && !first   ? Tone::kGood
                           : first && !second ? Tone::kBad
                                              : Tone::kNeutral};
  result.lines.push_back("right: " + c.class_names()[static_cast<std::size_t>(one.label)]);
  for (const auto& lines : {said("baseline", c.baseline_run, item), said("candidate", c.candidate_run, item)}) {
    result.lines.insert(result.lines.end(), lines.begin(), lines.end());
  }
  if (!one.expected_answer.empty() && !one.answer.empty())
    result.lines.push_back(fmt::format("expected “{}”", one.expected_answer));
  return result;
}

void add_pictures(Page& page, const Comparison& c, const std::string& heading, std::vector<std::size_t> items) {
  if (items.empty()) return;
  page.section(fmt::format("{}: {}", heading, items.size()));
  if (items.size() > kMostPictures) {
    page.paragraph(fmt::format("The first {} are shown; baseline.csv and candidate.csv have all.", kMostPictures));
    items.resize(kMostPictures);
  }
  std::vector<report::Thumbnail> pictures;
  for (const std::size_t item : items) pictures.push_back(thumbnail(c, item));
  page.thumbnails(pictures);
}

void add_disagreements(Page& page, const Comparison& c) {
  add_pictures(page, c, "Only the baseline is right", c.baseline_only);
  add_pictures(page, c, "Only the candidate is right", c.candidate_only);
  std::vector<std::size_t> both_wrong;
  for (const std::size_t item : c.disagreements) {
    const std::int64_t label = c.baseline_run.predictions[item].label;
    if (predicted_class(c.baseline_run.predictions[item]) != label &&
        predicted_class(c.candidate_run.predictions[item]) != label) {
      both_wrong.push_back(item);
    }
  }
  add_pictures(page, c, "Both are wrong, in different ways", both_wrong);
  if (!c.answers) return;
  std::vector<std::size_t> answers;
  for (const ComparedAnswer& one : c.answers->items) {
    const bool told = std::binary_search(c.disagreements.begin(), c.disagreements.end(), one.item);
    if (!told && normalized_answer(one.baseline) != normalized_answer(one.candidate)) answers.push_back(one.item);
  }
  add_pictures(page, c, "Same class, different answers", answers);
}

void add_table(Page& page, const ReportTable& table) { page.table(table.headers, table.rows); }

}  // namespace

Page to_page(const ComparisonReport& report) {
  const Comparison& c = report.comparison;
  Page page("May the candidate replace the baseline?", fmt::format("{} → {}", c.baseline.model, c.candidate.model));
  page.verdict(headline(c), describe_verdict(c), tone_of(c));
  for (const std::string& warning : c.warnings) page.verdict("Warning", warning, Tone::kWarning);
  if (!report.gates.empty()) {
    page.verdict(report.gates_hold() ? "All gates hold" : "A gate is broken",
                 report.gates_hold() ? "" : "The candidate doesn't meet every condition that was set; see Gates.",
                 report.gates_hold() ? Tone::kGood : Tone::kBad);
  }
  for (const ReportTable& table : comparison_tables(report)) {
    page.section(table.title);
    add_table(page, table);
  }
  add_charts(page, c);
  add_disagreements(page, c);
  page.section("Rule");
  page.paragraph(describe_rule(c.options));
  const ReportTable differences = configuration_table(c.baseline_run.resolved_config, c.candidate_run.resolved_config);
  page.section(differences.title);
  add_table(page, differences);
  page.details("Configuration of the baseline", c.baseline_run.resolved_config);
  page.details("Configuration of the candidate", c.candidate_run.resolved_config);
  page.section("Made with");
  std::vector<std::vector<std::string>> facts;
  for (const auto& [name, value] : report.facts) facts.push_back({name, value});
  page.table({"what", "value"}, facts);
  return page;
}

}  // namespace vlmzoo::app
