#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "compare/gates.hpp"
#include "compare/model_pair.hpp"
#include "output.hpp"
#include "session.hpp"

/// The checklist before a candidate replaces a baseline.
namespace vlmzoo::app {

enum class CheckStatus { kPass, kFail, kSkipped };
std::string to_string(CheckStatus status);  ///< "pass", "fail", "skipped"

struct Check {
  std::string name;
  CheckStatus status = CheckStatus::kSkipped;
  std::string evidence;  ///< what was seen, with the numbers; why it was skipped
};

struct Verification {
  std::string baseline, candidate;  ///< model.pretrained_path of each
  std::vector<Check> checks;

  bool passed() const;  ///< no check failed
};

/// {verdict: "pass" | "fail", baseline, candidate, checks: [{name, status, evidence}]}
OrderedJson to_json(const Verification& verification);
std::string to_text(const Verification& verification);
std::string to_markdown(const Verification& verification);

/// What is checked against what.
struct VerifyOptions {
  ComparisonOptions comparison;
  std::vector<Gate> latency;  ///< conditions of the candidate's speed; empty: no limit was set
  std::string question;       ///< for text generation; empty: the data's, else training.prompt
  std::int64_t pictures = 8;  ///< that the image pipeline and the head are checked on
  std::int64_t max_new_tokens = 50;
};

/// The result of `work`, or a failed check with the error's message. Interruptions pass through.
Check guarded(const std::string& name, const std::function<Check()>& work);

/// "loads", "image pipeline", "head outputs", "text generation": the candidate alone, on the first pictures of `data`.
/// Where it doesn't load the others are skipped.
std::vector<Check> check_candidate(const Session& candidate, const Dataset& data, const VerifyOptions& options);

/// "training step": one optimizer step of what the configuration leaves trainable, and of the head, on two pictures.
/// Skipped with the numbers when it would not fit into free memory.
Check check_training_step(const Session& candidate, const Dataset& data, const VerifyOptions& options);

/// "validation metrics" and "inference speed", from both models on all of `data`.
std::vector<Check> check_pair(const Session& baseline, const Session& candidate, const PairedData& data,
                              const VerifyOptions& options, const CacheOptions& caches);

/// "rollback": a zoo file of the two in a temporary folder is switched to the candidate and back; afterwards the active
/// model gives the baseline's outputs bit for bit, and the file is as it was.
Check check_rollback(const HostOptions& host, const std::filesystem::path& baseline,
                     const std::filesystem::path& candidate, const std::vector<std::string>& settings);

}  // namespace vlmzoo::app
