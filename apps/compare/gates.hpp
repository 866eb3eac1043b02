#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compare/comparison.hpp"

namespace vlmzoo::app {

/// A condition that the candidate has to meet: `accuracy>=0.93`, or against the baseline `latency_p95<=2x`.
struct Gate {
  std::string text;  ///< as it was given
  std::string metric;
  std::string comparison;  ///< ">=", "<=", ">" or "<"
  double limit = 0;
  bool ratio = false;  ///< the limit is a multiple of the baseline's value
};

/// What came of a gate.
struct GateResult {
  Gate gate;
  std::optional<double> value;  ///< the candidate's, or its ratio to the baseline's; none: not measured, no ratio
  bool passed = false;
  std::string evidence;  ///< "accuracy 0.9412 >= 0.93"
};

/// Error: kUsage for what isn't METRIC, >=, <=, > or <, and a number; for an unknown metric, naming the nearest and
/// all; for a ratio of a metric that belongs to both models together.
Gate parse_gate(const std::string& text);

/// Error: kUsage when a gate needs answers and they aren't compared.
void require_answers(std::span<const Gate> gates, bool answers);

/// Each gate on `comparison`. A gate whose value isn't there is broken.
std::vector<GateResult> check_gates(std::span<const Gate> gates, const Comparison& comparison);

/// "  accuracy           share of right classes", one line per metric, for help.
std::string describe_metrics();

}  // namespace vlmzoo::app
