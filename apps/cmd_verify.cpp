#include <fmt/format.h>

#include <string>
#include <vector>

#include "commands.hpp"
#include "compare/verification.hpp"
#include "pictures.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

/// The first samples whose pictures can be read; those that can't are told and left out where --skip-bad allows it.
Dataset readable(const Dataset& data, std::int64_t count, bool skip_bad) {
  Dataset result;
  result.class_names = data.class_names;
  for (const Sample& sample : data.samples) {
    if (std::ssize(result.samples) == count) break;
    try {
      load_image(sample.image);
      result.samples.push_back(sample);
    } catch (const Error& error) {
      if (!skip_bad || !is_fault_of_picture(error.code())) throw;
      warn(error.what());
    }
  }
  if (result.samples.empty()) throw Error(ErrorCode::kMismatch, "none of the pictures can be read");
  return result;
}

Verification verify(const HostOptions& host, const PairOptions& pair, const Options& options,
                    const DataRequest& request, const VerifyOptions& verify_options, const CacheOptions& caches) {
  const auto [baseline_file, candidate_file] = pair.files(options);
  const Session baseline(host, baseline_file, pair.settings), candidate(host, candidate_file, pair.settings);
  const PairedData data = load_paired(request, baseline, candidate);
  const Dataset first = readable(data.candidate, verify_options.pictures, verify_options.comparison.skip_bad);
  Verification result;
  result.baseline = baseline.config().model.pretrained_path;
  result.candidate = candidate.config().model.pretrained_path;
  result.checks = check_candidate(candidate, first, verify_options);
  release_freed_memory();
  result.checks.push_back(check_training_step(candidate, first, verify_options));
  release_freed_memory();
  for (Check& check : check_pair(baseline, candidate, data, verify_options, caches)) {
    result.checks.push_back(std::move(check));
  }
  result.checks.push_back(check_rollback(host, baseline_file, candidate_file, pair.settings));
  return result;
}

}  // namespace

int run_verify(Arguments arguments) {
  HostOptions host;
  PairOptions pair;
  ThreadOption threads;
  DataOptions data;
  CacheOptions caches;
  VerifyOptions verify_options;
  std::string max_latency;
  bool json = false, markdown = false;
  Options options({"verify", "[options] --baseline FILE|NAME --candidate FILE|NAME --data FOLDER|FILE",
                   "Goes through the checklist before a candidate replaces a baseline: loads, image pipeline, head\n"
                   "outputs, text generation, training step, validation metrics, inference speed, rollback. Each line\n"
                   "passes, fails or is skipped with what was seen. Exit code 3 when one fails.",
                   "vlmzoo verify --zoo configs/demo/zoo.yaml --candidate llama_vision --data pictures --markdown"});
  pair.add_to(options);
  data.add_to(options);
  options.add()("margin", po::value(&verify_options.comparison.margin)->value_name("M"),
                "by how much the accuracy may be lower; default 0.02")(
      "max-latency", po::value(&max_latency)->value_name("LIMIT"),
      "95th percentile of the candidate's latency: 500 (ms), or 2x the baseline's; default: no limit")(
      "prompt", po::value(&verify_options.question)->value_name("TEXT"), "question for text generation")(
      "max-new-tokens", po::value(&verify_options.max_new_tokens)->value_name("N"),
      "within which the answer has to stop; default 50")(
      "seed", po::value(&verify_options.comparison.seed)->value_name("N"), "seed of the bootstrap; default 0")(
      "json", po::bool_switch(&json), "print JSON")("markdown", po::bool_switch(&markdown),
                                                    "print Markdown, for a pull request");
  options.synonym("-p", "prompt");
  options.synonym("--max-tokens", "max-new-tokens");
  caches.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  require_utf8("prompt", verify_options.question);
  require_range("max-new-tokens", verify_options.max_new_tokens, 1, 100'000);
  if (json && markdown) throw Error(ErrorCode::kUsage, "--json and --markdown exclude each other");
  const double margin = verify_options.comparison.margin;
  if (!(margin >= 0 && margin < 1)) {
    throw Error(ErrorCode::kUsage, fmt::format("--margin is {}; expected 0 to below 1", margin));
  }
  if (!max_latency.empty()) verify_options.latency.push_back(parse_gate("latency_p95<=" + max_latency));
  verify_options.comparison.skip_bad = data.skip_bad;
  const DataRequest request = data.request();
  host.apply();
  threads.apply(options);

  const Verification result = verify(host, pair, options, request, verify_options, caches);
  if (json) {
    print_json(to_json(result));
  } else {
    print(markdown ? to_markdown(result) : to_text(result));
  }
  return result.passed() ? 0 : 3;
}

}  // namespace vlmzoo::app
