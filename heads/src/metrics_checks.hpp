#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "vlmzoo/error.hpp"
#include "vlmzoo/metrics.hpp"

namespace vlmzoo {

enum class ScoreKind { kProbabilities, kLogits };

/// Throws Error(kMismatch): "metrics: " and the message.
[[noreturn]] void bad_metric_input(const std::string& message);

/// Throws unless there are items, the sizes fit, every label is in [0, K) and every score is finite; probabilities also
/// lie in [0, 1] and add up to 1 in each row.
void check_predictions(const Predictions& predictions, ScoreKind kind);

/// Throws unless there are items and every number is in [0, classes). `what` names them: "labels".
void check_classes(std::span<const std::int64_t> values, std::int64_t classes, const char* what);

/// Throws unless there are items and every number is 0 or 1.
void check_flags(std::span<const std::uint8_t> flags, const char* what);

/// Throws Error(kConfig) unless 0 < level < 1.
void check_level(double level);

/// Throws Error(kConfig) for options out of range, Error(kMismatch) for an n out of range.
void check_bootstrap(std::int64_t n, const BootstrapOptions& options);

/// The interval that leaves out the same share at both ends. Sorts the values.
Interval percentile_interval(std::span<double> values, double level);

}  // namespace vlmzoo
