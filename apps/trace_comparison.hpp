#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "output.hpp"
#include "trace.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo::app {

/// How far one stage of a run is from the reference's.
struct StageDifference {
  enum class Verdict {
    kWithin,
    kAbove,    ///< above the tolerance, not a number, or integers that aren't equal
    kShape,    ///< shapes differ
    kMissing,  ///< only the reference has it
    kExtra     ///< only the run has it: no fault, the reference may hold what it wants
  };
  std::string name;
  Verdict verdict = Verdict::kWithin;
  std::vector<std::int64_t> shape, reference_shape;  ///< the same one twice where one side lacks the stage
  /// max and mean |run − reference|, and max |run − reference| / max(1, max |reference|); NaN where one side has one.
  /// None unless both sides have the stage in one shape.
  std::optional<double> largest, mean, relative;
  std::optional<double> cosine;  ///< of floating stages

  bool within() const { return verdict == Verdict::kWithin || verdict == Verdict::kExtra; }
};

/// Stages in the order in which data flows: pixel_values, input_ids, other inputs by name, vision_last_hidden_state,
/// image_embeds, last_hidden_state, logits, generated_ids.
struct TraceComparison {
  std::vector<StageDifference> stages;
  double tolerance = 0;

  const StageDifference* first_outside() const;  ///< null: all are within
};

/// Every tensor of a trace file, of whatever type.
NamedTensors read_trace(const SafetensorsFile& file);

/// Floating stages are within when their relative difference is at most `tolerance`; where one side has integers, both
/// have to be equal. Error: kMismatch when the two have no stage in common.
TraceComparison compare_traces(const NamedTensors& run, const SafetensorsFile& reference, double tolerance);

std::string to_table(const TraceComparison& comparison);
OrderedJson to_json(const TraceComparison& comparison);

}  // namespace vlmzoo::app
