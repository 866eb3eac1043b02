#include "compare/comparison_output.hpp"

#include <fmt/format.h>

#include "table.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo::app {
namespace {

OrderedJson pair_of(const Interval& interval) { return OrderedJson::array({interval.low, interval.high}); }

OrderedJson ids_of(const Comparison& comparison, const std::vector<std::size_t>& items) {
  OrderedJson result = OrderedJson::array();
  for (const std::size_t item : items) result.push_back(comparison.baseline_run.predictions[item].sample_id);
  return result;
}

OrderedJson classes_of(const Comparison& c) {
  OrderedJson result = OrderedJson::array();
  for (std::size_t k = 0; k < c.per_class.size(); ++k) {
    const ClassDifference& one = c.per_class[k];
    result.push_back({{"class", c.class_names()[k]},
                      {"n", one.counts.n()},
                      {"baseline_accuracy", one.counts.baseline_accuracy()},
                      {"candidate_accuracy", one.counts.candidate_accuracy()},
                      {"difference", one.counts.difference()},
                      {"difference_ci", pair_of(one.interval)},
                      {"mcnemar_p", one.mcnemar_p},
                      {"holm_p", one.holm_p}});
  }
  return result;
}

/// candidate / baseline; null where one of them isn't known.
OrderedJson ratio(double baseline, double candidate) {
  return baseline > 0 && candidate > 0 ? OrderedJson(candidate / baseline) : OrderedJson(nullptr);
}

OrderedJson ratios_of(const Comparison& c) {
  const Evaluation &a = c.baseline, &b = c.candidate;
  return {{"latency_p50", ratio(a.latency.p50, b.latency.p50)},
          {"latency_p95", ratio(a.latency.p95, b.latency.p95)},
          {"latency_p99", ratio(a.latency.p99, b.latency.p99)},
          {"throughput", ratio(throughput(a), throughput(b))},
          {"load_seconds", ratio(a.load_seconds, b.load_seconds)},
          {"peak_memory", ratio(static_cast<double>(a.peak_memory), static_cast<double>(b.peak_memory))},
          {"weight_bytes", ratio(static_cast<double>(a.weight_bytes), static_cast<double>(b.weight_bytes))}};
}

OrderedJson to_json(const AnswerScores& scores) {
  return {{"exact_match", scores.exact_match},
          {"normalized_match", scores.normalized_match},
          {"token_f1", scores.token_f1}};
}

OrderedJson to_json(const AnswerComparison& answers) {
  return {{"n", answers.items.size()},
          {"baseline", to_json(answers.baseline)},
          {"candidate", to_json(answers.candidate)},
          {"normalized_match_difference", answers.normalized.difference()},
          {"normalized_match_difference_ci", pair_of(answers.difference)},
          {"mcnemar_p", answers.mcnemar_p}};
}

OrderedJson to_json(const std::vector<GateResult>& gates) {
  OrderedJson result = OrderedJson::array();
  for (const GateResult& gate : gates) {
    result.push_back({{"gate", gate.gate.text},
                      {"passed", gate.passed},
                      {"value", gate.value ? OrderedJson(*gate.value) : OrderedJson(nullptr)},
                      {"evidence", gate.evidence}});
  }
  return result;
}

OrderedJson side_json(const Evaluation& side) {
  OrderedJson json = to_json(side);
  json["throughput"] = throughput(side);
  return json;
}

std::string markdown_cell(const std::string& text) {
  std::string result;
  for (const char c : harmless(text)) {
    switch (c) {
      case '|':
        result += "\\|";
        break;
      case '<':  // or else it would begin a tag, and vanish
        result += "&lt;";
        break;
      case '&':
        result += "&amp;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string flips_markdown(const Comparison& c, const char* who, const std::vector<std::size_t>& items) {
  if (items.empty()) return "";
  std::string result = fmt::format("\n<details><summary>{} right: {}</summary>\n\n", who, items.size());
  for (const std::size_t item : items) {
    const Prediction &one = c.baseline_run.predictions[item], &other = c.candidate_run.predictions[item];
    const auto name = [&](std::int64_t k) { return markdown_cell(c.class_names()[static_cast<std::size_t>(k)]); };
    result += fmt::format("- {}: {}; baseline {}, candidate {}\n", markdown_cell(one.sample_id), name(one.label),
                          name(predicted_class(one)), name(predicted_class(other)));
  }
  return result + "\n</details>\n";
}

}  // namespace

OrderedJson to_json(const ComparisonReport& report) {
  const Comparison& c = report.comparison;
  OrderedJson json = {
      {"n", c.n()},
      {"verdict", to_string(c.decision.verdict)},
      {"replace", to_string(c.decision.replace)},
      {"margin", c.options.margin},
      {"alpha", c.options.alpha},
      {"seed", c.options.seed},
      {"rule", describe_rule(c.options)},
      {"baseline", side_json(c.baseline)},
      {"candidate", side_json(c.candidate)},
      {"accuracy_difference", c.counts.difference()},
      {"accuracy_difference_ci", pair_of(c.decision.interval)},
      {"accuracy_difference_ci_narrow", pair_of(c.decision.narrow_interval)},
      {"accuracy_difference_bootstrap_ci", pair_of(c.bootstrap)},
      {"mcnemar_p", c.mcnemar_p},
      {"flips",
       {{"baseline_only_correct", c.counts.baseline_only}, {"candidate_only_correct", c.counts.candidate_only}}},
      {"flipped_items",
       {{"baseline_only_correct", ids_of(c, c.baseline_only)},
        {"candidate_only_correct", ids_of(c, c.candidate_only)}}},
      {"both_correct", c.counts.both},
      {"neither_correct", c.counts.neither},
      {"agreement", c.agreement},
      {"kappa", c.kappa},
      {"items_needed", c.needed ? OrderedJson(*c.needed) : OrderedJson(nullptr)},
      {"per_class", classes_of(c)},
      {"ratios", ratios_of(c)}};
  if (c.answers) json["answers"] = to_json(*c.answers);
  json["gates"] = to_json(report.gates);
  json["unreadable"] = c.unreadable;
  json["skipped"] = c.skipped;
  json["warnings"] = c.warnings;
  for (const auto& [name, value] : report.facts) json["facts"][name] = value;
  if (!report.folder.empty()) json["report"] = (report.folder / "report.html").string();
  return json;
}

std::string to_text(const ComparisonReport& report) {
  const Comparison& c = report.comparison;
  std::string result;
  for (const ReportTable& one : comparison_tables(report)) {
    Table table(one.headers);
    for (const auto& row : one.rows) table.add(row);
    result += fmt::format("{}\n{}\n", one.title, table.text());
  }
  result += fmt::format("Rule: {}\n\n", describe_rule(c.options));
  for (const std::string& warning : c.warnings) result += fmt::format("Warning: {}\n", warning);
  return result + fmt::format("Verdict: {}\n{}\n", headline(c), describe_verdict(c));
}

std::string to_markdown(const ReportTable& table) {
  std::string header = "|", line = "|", body;
  for (const std::string& name : table.headers) {
    const bool right = name.starts_with('>');
    header += " " + markdown_cell(right ? name.substr(1) : name) + " |";
    line += right ? "---:|" : "---|";
  }
  for (const auto& row : table.rows) {
    body += "|";
    for (const std::string& cell : row) body += " " + markdown_cell(cell) + " |";
    body += "\n";
  }
  return fmt::format("{}\n{}\n{}", header, line, body);
}

std::string to_markdown(const ComparisonReport& report) {
  const Comparison& c = report.comparison;
  std::string result = fmt::format("# {}\n\n`{}` → `{}`\n\n{}\n", headline(c), markdown_cell(c.baseline.model),
                                   markdown_cell(c.candidate.model), describe_verdict(c));
  for (const std::string& warning : c.warnings) result += fmt::format("\n> **Warning:** {}\n", warning);
  std::vector<ReportTable> tables = comparison_tables(report);
  tables.push_back(configuration_table(c.baseline_run.resolved_config, c.candidate_run.resolved_config));
  for (const ReportTable& table : tables) result += fmt::format("\n## {}\n\n{}", table.title, to_markdown(table));
  result += flips_markdown(c, "Only the baseline is", c.baseline_only);
  result += flips_markdown(c, "Only the candidate is", c.candidate_only);
  result += fmt::format("\n## Rule\n\n{}\n\n## Made with\n\n", describe_rule(c.options));
  for (const auto& [name, value] : report.facts) result += fmt::format("- {}: {}\n", name, harmless(value));
  return result;
}

void write_report(const ComparisonReport& report, const std::filesystem::path& folder) {
  const Comparison& c = report.comparison;
  to_page(report).write(folder / "report.html");
  write_file(folder / "report.md", to_markdown(report));
  write_file(folder / "comparison.json", to_text(to_json(report)));
  write_file(folder / "baseline.csv", predictions_csv(c.baseline_run));
  write_file(folder / "candidate.csv", predictions_csv(c.candidate_run));
  write_file(folder / "baseline.config.yaml", c.baseline_run.resolved_config);
  write_file(folder / "candidate.config.yaml", c.candidate_run.resolved_config);
}

}  // namespace vlmzoo::app
