#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "compare/comparison_output.hpp"
#include "table.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

using Row = std::vector<std::string>;

std::string interval_text(const Interval& interval) {
  return fmt::format("[{:+.4f}, {:+.4f}]", interval.low, interval.high);
}

std::string ratio_text(double baseline, double candidate) {
  return baseline > 0 && candidate > 0 ? fmt::format("{:.2f}x", candidate / baseline) : "";
}

Row share_row(const std::string& name, double baseline, double candidate, const Interval* of_baseline = nullptr,
              const Interval* of_candidate = nullptr) {
  const auto text = [](double value, const Interval* interval) {
    return interval == nullptr ? fmt::format("{:.4f}", value)
                               : fmt::format("{:.4f} [{:.4f}, {:.4f}]", value, interval->low, interval->high);
  };
  return {name, text(baseline, of_baseline), text(candidate, of_candidate),
          fmt::format("{:+.4f}", candidate - baseline)};
}

Row measured_row(const std::string& name, double baseline, double candidate, const auto& text) {
  const auto shown = [&](double value) { return value > 0 ? text(value) : std::string("not measured"); };
  return {name, shown(baseline), shown(candidate), ratio_text(baseline, candidate)};
}

ReportTable metrics_table(const Comparison& c) {
  const Evaluation &a = c.baseline, &b = c.candidate;
  ReportTable table{"Metrics", {"metric", ">baseline", ">candidate", ">difference or ratio"}, {}};
  const auto ms = [](double value) { return fmt::format("{:.1f} ms", value); };
  const auto bytes = [](double value) { return format_bytes(static_cast<std::uint64_t>(value)); };
  table.rows = {
      share_row("accuracy", a.metrics.accuracy, b.metrics.accuracy, &a.accuracy_interval, &b.accuracy_interval),
      share_row("balanced accuracy", a.metrics.balanced_accuracy, b.metrics.balanced_accuracy),
      share_row("macro F1", a.metrics.macro_f1, b.metrics.macro_f1),
      share_row("negative log-likelihood", a.metrics.negative_log_likelihood, b.metrics.negative_log_likelihood),
      share_row("calibration error", a.metrics.calibration_error, b.metrics.calibration_error),
      {"temperature", fmt::format("{:.3f}", a.temperature), fmt::format("{:.3f}", b.temperature), ""},
      measured_row("latency p50", a.latency.p50, b.latency.p50, ms),
      measured_row("latency p95", a.latency.p95, b.latency.p95, ms),
      measured_row("latency p99", a.latency.p99, b.latency.p99, ms),
      measured_row("throughput", throughput(a), throughput(b),
                   [](double v) { return fmt::format("{:.2f} pictures/s", v); }),
      measured_row("load time", a.load_seconds, b.load_seconds, [](double v) { return fmt::format("{:.2f} s", v); }),
      measured_row("peak memory", static_cast<double>(a.peak_memory), static_cast<double>(b.peak_memory), bytes),
      measured_row("weights", static_cast<double>(a.weight_bytes), static_cast<double>(b.weight_bytes), bytes),
      {"precision", describe(a.precision), describe(b.precision), ""}};
  if (a.cached + b.cached > 0) {
    table.rows.push_back(
        {"times from the cache", fmt::format("{} of {}", a.cached, a.n), fmt::format("{} of {}", b.cached, b.n), ""});
  }
  return table;
}

ReportTable paired_table(const Comparison& c) {
  const double wide = 100 * (1 - c.options.alpha), narrow = 100 * (1 - 2 * c.options.alpha);
  const auto items = [&](std::int64_t count) {
    return fmt::format("{} ({:.2f} %)", grouped(count), 100 * c.counts.share(count));
  };
  ReportTable table{"On the same items", {"statistic", ">value"}, {}};
  table.rows = {{"items", grouped(c.n())},
                {"accuracy difference", fmt::format("{:+.4f}", c.counts.difference())},
                {fmt::format("  {:g} % interval", wide), interval_text(c.decision.interval)},
                {fmt::format("  {:g} % interval", narrow), interval_text(c.decision.narrow_interval)},
                {fmt::format("  {:g} % bootstrap interval", wide), interval_text(c.bootstrap)},
                {"margin", fmt::format("{}", c.options.margin)},
                {"McNemar's exact p", fmt::format("{:.4g}", c.mcnemar_p)},
                {"only the baseline is right", items(c.counts.baseline_only)},
                {"only the candidate is right", items(c.counts.candidate_only)},
                {"both are right", items(c.counts.both)},
                {"neither is right", items(c.counts.neither)},
                {"same class", fmt::format("{:.4f}", c.agreement)},
                {"Cohen's kappa", fmt::format("{:.4f}", c.kappa)}};
  if (c.decision.verdict == Verdict::kUndecided) {
    table.rows.push_back({"items that would decide", c.needed ? "about " + grouped(*c.needed) : "no number of them"});
  }
  return table;
}

ReportTable class_table(const Comparison& c) {
  ReportTable table{"Classes",
                    {"class", ">items", ">baseline", ">candidate", ">difference",
                     fmt::format(">{:g} % interval", 100 * (1 - c.options.alpha)), ">McNemar's p", ">Holm's p"},
                    {}};
  for (std::size_t k = 0; k < c.per_class.size(); ++k) {
    const ClassDifference& one = c.per_class[k];
    if (one.counts.n() == 0) {
      table.rows.push_back({c.class_names()[k], "0", "", "", "", "", "", ""});
      continue;
    }
    table.rows.push_back(
        {c.class_names()[k], grouped(one.counts.n()), fmt::format("{:.4f}", one.counts.baseline_accuracy()),
         fmt::format("{:.4f}", one.counts.candidate_accuracy()), fmt::format("{:+.4f}", one.counts.difference()),
         interval_text(one.interval), fmt::format("{:.4g}", one.mcnemar_p), fmt::format("{:.4g}", one.holm_p)});
  }
  return table;
}

ReportTable answer_table(const Comparison& c) {
  ReportTable table{"Answers", {"metric", ">baseline", ">candidate", ">difference"}, {}};
  if (!c.answers) return table;
  const AnswerComparison& a = *c.answers;
  table.rows = {{"items with an expected answer", grouped(std::ssize(a.items)), grouped(std::ssize(a.items)), ""},
                share_row("exact match", a.baseline.exact_match, a.candidate.exact_match),
                share_row("normalised match", a.baseline.normalized_match, a.candidate.normalized_match),
                share_row("token F1", a.baseline.token_f1, a.candidate.token_f1),
                {fmt::format("{:g} % interval of the normalised match", 100 * (1 - c.options.alpha)), "", "",
                 interval_text(a.difference)},
                {"McNemar's exact p of it", "", "", fmt::format("{:.4g}", a.mcnemar_p)}};
  return table;
}

ReportTable gate_table(const std::vector<GateResult>& gates) {
  ReportTable table{"Gates", {"gate", "result", "evidence"}, {}};
  for (const GateResult& gate : gates) {
    table.rows.push_back({gate.gate.text, gate.passed ? "holds" : "BROKEN", gate.evidence});
  }
  return table;
}

/// "model.precision" -> "{vision: …}", of what the configuration writer wrote: a key a line, two blanks a level.
std::map<std::string, std::string> keys_of(std::string_view yaml) {
  std::map<std::string, std::string> result;
  std::vector<std::string> path;
  while (!yaml.empty()) {
    const std::string_view line = yaml.substr(0, yaml.find('\n'));
    yaml.remove_prefix(std::min(yaml.size(), line.size() + 1));
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size());
    const std::size_t colon = line.find(':', indent);
    if (colon == std::string_view::npos) continue;
    path.resize(std::min(path.size(), indent / 2));
    path.emplace_back(line.substr(indent, colon - indent));
    if (colon + 2 >= line.size()) continue;
    std::string key;
    for (const std::string& part : path) key += (key.empty() ? "" : ".") + part;
    result[key] = line.substr(colon + 2);
  }
  return result;
}

}  // namespace

bool ComparisonReport::gates_hold() const {
  return std::all_of(gates.begin(), gates.end(), [](const GateResult& gate) { return gate.passed; });
}

std::string headline(const Comparison& comparison) {
  return fmt::format("{} (replace: {})", to_string(comparison.decision.verdict),
                     to_string(comparison.decision.replace));
}

std::vector<ReportTable> comparison_tables(const ComparisonReport& report) {
  std::vector<ReportTable> tables = {metrics_table(report.comparison), paired_table(report.comparison),
                                     class_table(report.comparison), answer_table(report.comparison),
                                     gate_table(report.gates)};
  std::erase_if(tables, [](const ReportTable& table) { return table.rows.empty(); });
  return tables;
}

ReportTable configuration_table(const std::string& baseline, const std::string& candidate) {
  ReportTable table{"Differences of the configurations", {"key", "baseline", "candidate"}, {}};
  const auto first = keys_of(baseline), second = keys_of(candidate);
  std::map<std::string, std::pair<std::string, std::string>> merged;
  for (const auto& [key, value] : first) merged[key].first = value;
  for (const auto& [key, value] : second) merged[key].second = value;
  for (const auto& [key, values] : merged) {
    if (values.first != values.second) table.rows.push_back({key, values.first, values.second});
  }
  return table;
}

}  // namespace vlmzoo::app
