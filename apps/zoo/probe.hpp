#pragma once

#include <string>
#include <vector>

#include "output.hpp"
#include "session.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::app {

/// What a model made of the probe picture. The values mean nothing; two runs of one model give the same.
struct ProbeResult {
  std::string model_type, fingerprint;  ///< model_fingerprint()
  RolePrecision precision;
  std::string label;       ///< likeliest class
  double probability = 0;  ///< of it
  bool head_trained = false;
  std::vector<std::int64_t> answer_ids;  ///< first greedy tokens; empty for a model without language
  double load_s = 0, latency_ms = 0;     ///< latency: of the classification
};

/// 640×400, the same on every machine: drawn in integers.
Image probe_picture();

/// Loads the session's model with its head and runs it once on the probe picture: classification, and the first tokens
/// of an answer when the configuration is multimodal. Errors: whatever keeps it from working; kInternal for values that
/// aren't finite.
ProbeResult probe(const Session& session);

OrderedJson to_json(const ProbeResult& result);

}  // namespace vlmzoo::app
