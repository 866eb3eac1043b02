#include "compare/gates.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

using Value = std::optional<double>;

/// A metric of one model, or (`both`) of the pair.
struct Metric {
  const char* name;
  const char* what;
  Value (*of)(const Comparison& comparison, const Evaluation& side);
  bool both = false, answers = false;
};

Value known(double value) { return value > 0 ? Value(value) : std::nullopt; }

Value latency_of(const Evaluation& side, double LatencySummary::*part) { return known(side.latency.*part); }

Value score_of(const Comparison& c, const Evaluation& side, double AnswerScores::*part) {
  if (!c.answers) return std::nullopt;
  return (&side == &c.baseline ? c.answers->baseline : c.answers->candidate).*part;
}

using C = const Comparison&;
using S = const Evaluation&;

constexpr std::array kMetrics = {
    Metric{"accuracy", "share of right classes", [](C, S s) -> Value { return s.metrics.accuracy; }},
    Metric{"balanced_accuracy", "mean recall of the classes",
           [](C, S s) -> Value { return s.metrics.balanced_accuracy; }},
    Metric{"macro_f1", "mean F1 of the classes", [](C, S s) -> Value { return s.metrics.macro_f1; }},
    Metric{"nll", "negative log-likelihood", [](C, S s) -> Value { return s.metrics.negative_log_likelihood; }},
    Metric{"ece", "expected calibration error", [](C, S s) -> Value { return s.metrics.calibration_error; }},
    Metric{"latency_mean", "ms per picture", [](C, S s) { return latency_of(s, &LatencySummary::mean); }},
    Metric{"latency_p50", "ms per picture", [](C, S s) { return latency_of(s, &LatencySummary::p50); }},
    Metric{"latency_p95", "ms per picture", [](C, S s) { return latency_of(s, &LatencySummary::p95); }},
    Metric{"latency_p99", "ms per picture", [](C, S s) { return latency_of(s, &LatencySummary::p99); }},
    Metric{"throughput", "pictures per second, one at a time", [](C, S s) { return known(throughput(s)); }},
    Metric{"load_seconds", "time to load the model", [](C, S s) { return known(s.load_seconds); }},
    Metric{"peak_memory", "bytes", [](C, S s) { return known(static_cast<double>(s.peak_memory)); }},
    Metric{"weight_bytes", "bytes of the weights", [](C, S s) { return known(static_cast<double>(s.weight_bytes)); }},
    Metric{"exact_match", "share of answers that are the expected text",
           [](C c, S s) { return score_of(c, s, &AnswerScores::exact_match); }, false, true},
    Metric{"normalized_match", "the same after normalisation",
           [](C c, S s) { return score_of(c, s, &AnswerScores::normalized_match); }, false, true},
    Metric{"token_f1", "F1 of the words of answers", [](C c, S s) { return score_of(c, s, &AnswerScores::token_f1); },
           false, true},
    Metric{"accuracy_difference", "candidate - baseline", [](C c, S) -> Value { return c.counts.difference(); }, true},
    Metric{"accuracy_difference_low", "lower end of its interval",
           [](C c, S) -> Value { return c.decision.interval.low; }, true},
    Metric{"mcnemar_p", "McNemar's exact p", [](C c, S) -> Value { return c.mcnemar_p; }, true},
    Metric{"agreement", "share of items of which both say the same", [](C c, S) -> Value { return c.agreement; }, true},
    Metric{"kappa", "Cohen's kappa of the two models", [](C c, S) -> Value { return c.kappa; }, true},
    Metric{"baseline_only_correct", "items that only the baseline gets right",
           [](C c, S) -> Value { return static_cast<double>(c.counts.baseline_only); }, true},
};

const Metric* find_metric(const std::string& name) {
  const auto* found =
      std::find_if(kMetrics.begin(), kMetrics.end(), [&](const Metric& metric) { return name == metric.name; });
  return found == kMetrics.end() ? nullptr : found;
}

[[noreturn]] void refuse(const std::string& text, const std::string& why) {
  throw Error(ErrorCode::kUsage, fmt::format("gate {}: {}", text, why));
}

[[noreturn]] void refuse_metric(const std::string& text, const std::string& name) {
  std::vector<std::string> names;
  for (const Metric& metric : kMetrics) names.emplace_back(metric.name);
  const std::string suggestion = nearest(name, names);
  refuse(text, fmt::format("unknown metric '{}'; {} {}", name,
                           suggestion.empty() ? "there are" : fmt::format("did you mean '{}'? There are", suggestion),
                           fmt::join(names, ", ")));
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool holds(double value, const std::string& comparison, double limit) {
  if (comparison == ">=") return value >= limit;
  if (comparison == "<=") return value <= limit;
  return comparison == ">" ? value > limit : value < limit;
}

GateResult check_gate(const Gate& gate, const Comparison& comparison) {
  const Metric& metric = *find_metric(gate.metric);
  GateResult result{gate, metric.of(comparison, comparison.candidate), false, ""};
  if (!result.value) {
    result.evidence = fmt::format("{} was not measured", gate.metric);
    return result;
  }
  std::string shown = fmt::format("{:.6g}", *result.value);
  if (gate.ratio) {
    const Value baseline = metric.of(comparison, comparison.baseline);
    if (!baseline || *baseline == 0) {
      result.evidence =
          fmt::format("{} {} has no ratio: the baseline's is {}", gate.metric, shown, baseline ? "0" : "not known");
      result.value.reset();
      return result;
    }
    *result.value /= *baseline;
    shown += fmt::format(" ({:.4g}x the baseline's {:.6g})", *result.value, *baseline);
  }
  result.passed = holds(*result.value, gate.comparison, gate.limit);
  result.evidence = fmt::format("{} {} {} {} {:g}{}", gate.metric, shown, result.passed ? "is" : "is not",
                                gate.comparison, gate.limit, gate.ratio ? "x" : "");
  return result;
}

}  // namespace

Gate parse_gate(const std::string& text) {
  const auto at = text.find_first_of("<>=");
  if (at == std::string::npos) refuse(text, "expected METRIC>=NUMBER, as in accuracy>=0.93 or latency_p95<=2x");
  const std::size_t after = std::min(text.find_first_not_of("<>=", at), text.size());
  Gate gate{text, trimmed(text.substr(0, at)), text.substr(at, after - at)};
  if (gate.comparison != ">=" && gate.comparison != "<=" && gate.comparison != ">" && gate.comparison != "<") {
    refuse(text, fmt::format("'{}' is no comparison; expected >=, <=, > or <", gate.comparison));
  }
  const Metric* metric = find_metric(gate.metric);
  if (metric == nullptr) refuse_metric(text, gate.metric);
  std::string number = trimmed(text.substr(after));
  gate.ratio = number.ends_with('x');
  if (gate.ratio) number.pop_back();
  const char* end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, gate.limit);
  if (error != std::errc() || stop != end || !std::isfinite(gate.limit)) {
    refuse(text,
           fmt::format("'{}' is no number; expected one as in 0.93, or a multiple of the baseline's value as in 2x",
                       trimmed(text.substr(after))));
  }
  if (gate.ratio && metric->both) {
    refuse(text, fmt::format("{} belongs to both models together and has no ratio", gate.metric));
  }
  return gate;
}

void require_answers(std::span<const Gate> gates, bool answers) {
  for (const Gate& gate : gates) {
    if (!answers && find_metric(gate.metric)->answers) {
      refuse(gate.text, fmt::format("{} needs the models' answers; add --answers", gate.metric));
    }
  }
}

std::vector<GateResult> check_gates(std::span<const Gate> gates, const Comparison& comparison) {
  std::vector<GateResult> results;
  for (const Gate& gate : gates) results.push_back(check_gate(gate, comparison));
  return results;
}

std::string describe_metrics() {
  std::string result;
  for (const Metric& metric : kMetrics) result += fmt::format("  {:<25}{}\n", metric.name, metric.what);
  return result;
}

}  // namespace vlmzoo::app
