#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "compare/comparison_output.hpp"
#include "compare/verification.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/run_head.hpp"
#include "zoo/probe.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRollbackTokens = 8;

Check check_metrics(const Comparison& comparison) {
  const Replace replace = comparison.decision.replace;
  const Interval& narrow = comparison.decision.narrow_interval;
  std::string evidence =
      fmt::format("{} The {:g} % interval [{:+.4f}, {:+.4f}] {} −{}, so the candidate is {}.",
                  describe_verdict(comparison), 100 * (1 - 2 * comparison.options.alpha), narrow.low, narrow.high,
                  replace == Replace::kYes  ? "lies above"
                  : replace == Replace::kNo ? "lies below"
                                            : "holds",
                  comparison.options.margin,
                  replace == Replace::kYes  ? "at most the margin worse"
                  : replace == Replace::kNo ? "worse by more than the margin"
                                            : "not shown to be good enough; more pictures would tell");
  for (const std::string& warning : comparison.warnings) evidence += " " + warning;
  return {"", replace == Replace::kYes ? CheckStatus::kPass : CheckStatus::kFail, evidence};
}

Check check_speed(const Comparison& comparison, const std::vector<Gate>& gates) {
  const LatencySummary &a = comparison.baseline.latency, &b = comparison.candidate.latency;
  const std::string numbers =
      fmt::format("p50 {:.1f} ms, p95 {:.1f} ms, {:.2f} pictures/s (baseline p50 {:.1f} ms, p95 {:.1f} ms)", b.p50,
                  b.p95, throughput(comparison.candidate), a.p50, a.p95);
  if (gates.empty()) return {"", CheckStatus::kSkipped, "no limit is set (--max-latency 500 or 2x): " + numbers};
  Check check{"", CheckStatus::kPass, numbers};
  for (const GateResult& result : check_gates(gates, comparison)) {
    if (!result.passed) check.status = CheckStatus::kFail;
    check.evidence += "; " + result.evidence;
  }
  return check;
}

/// A folder of this process that goes away with everything in it.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "vlmzoo_verify_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      throw Error(ErrorCode::kIo, fmt::format("cannot create {}: {}", pattern, std::strerror(errno)));
    }
    path_ = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// What a model makes of the probe picture, to the bit.
struct Fingerprint {
  std::vector<float> logits;
  std::vector<TokenId> answer;
  bool operator==(const Fingerprint& other) const {
    return logits.size() == other.logits.size() && answer == other.answer &&
           std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
  }
};

Fingerprint fingerprint_of(const HostOptions& host, const fs::path& config, const std::vector<std::string>& settings) {
  const at::NoGradGuard no_grad;
  const Session session(host, config, settings);
  const ModelConfig& model_config = session.config().model;
  const bool multimodal = model_config.multimodal;
  const auto model = session.create({.roles = multimodal ? RoleSet::all() : head_roles(model_config)});
  const Head head = make_head(model->info(), model_config);
  const Request request{"What is in the picture?", {probe_picture()}};
  const at::Tensor logits = run_head(*model, head, request).logits.to(at::kCPU, at::kFloat).contiguous();
  Fingerprint result;
  result.logits.assign(logits.const_data_ptr<float>(), logits.const_data_ptr<float>() + logits.numel());
  if (!multimodal || model->tokenizer() == nullptr) return result;
  GenerationConfig generation = session.config().generation;
  generation.temperature = 0;
  generation.max_new_tokens = kRollbackTokens;
  result.answer = generate(*model, model->preprocess({&request, 1}), generation).at(0).ids;
  check_interrupt();
  return result;
}

Check roll_there_and_back(const HostOptions& host, const fs::path& baseline, const fs::path& candidate,
                          const std::vector<std::string>& settings) {
  const ScratchFolder folder;
  const fs::path zoo = folder.path() / "zoo.yaml";
  write_file(zoo, fmt::format("active: baseline\nmodels:\n  baseline: {}\n  candidate: {}\n",
                              quoted(fs::absolute(baseline).string()), quoted(fs::absolute(candidate).string())));
  const std::string text = read_file(zoo);
  const auto active = [&] {
    const Zoo now = read_zoo(zoo);
    return now.config(now.active);
  };
  const Probe probed = [&](const fs::path& config) { return to_json(probe(Session(host, config, settings))); };
  const Fingerprint before = fingerprint_of(host, active(), settings);
  switch_model(zoo, "candidate", "verify", probed);
  if (read_zoo(zoo).active != "candidate") return {"", CheckStatus::kFail, "the switch left the baseline active"};
  roll_back(zoo, std::nullopt, "verify", probed);
  const Fingerprint after = fingerprint_of(host, active(), settings);
  const bool same_file = read_file(zoo) == text, same_outputs = before == after;
  return {
      "", same_file && same_outputs ? CheckStatus::kPass : CheckStatus::kFail,
      fmt::format("on a copy: baseline → candidate → baseline; then {} logits and {} greedy tokens of the probe "
                  "picture are {} and "
                  "the zoo file is {}",
                  before.logits.size(), before.answer.size(), same_outputs ? "equal bit for bit" : "NOT what they were",
                  same_file ? "equal byte for byte" : "NOT what it was")};
}

}  // namespace

std::vector<Check> check_pair(const Session& baseline, const Session& candidate, const PairedData& data,
                              const VerifyOptions& options, const CacheOptions& caches) {
  std::optional<Comparison> comparison;
  std::vector<Check> checks;
  checks.push_back(guarded("validation metrics", [&] {
    PredictOptions predict;
    predict.skip_bad = options.comparison.skip_bad;
    const PairedRuns runs = predict_pair(baseline, candidate, data, predict, caches);
    if (runs.interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted; what was computed is cached");
    comparison = compare(runs.baseline, runs.candidate, options.comparison);
    return check_metrics(*comparison);
  }));
  checks.push_back(comparison ? guarded("inference speed", [&] { return check_speed(*comparison, options.latency); })
                              : Check{"inference speed", CheckStatus::kSkipped, "the models could not be compared"});
  return checks;
}

Check check_rollback(const HostOptions& host, const fs::path& baseline, const fs::path& candidate,
                     const std::vector<std::string>& settings) {
  return guarded("rollback", [&] { return roll_there_and_back(host, baseline, candidate, settings); });
}

}  // namespace vlmzoo::app
