#include <ATen/Parallel.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cache.hpp"
#include "commands.hpp"
#include "compare/comparison.hpp"
#include "compare/comparison_output.hpp"
#include "compare/gates.hpp"
#include "compare/model_pair.hpp"
#include "output_folder.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

bool belongs_to_comparison(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (!entry.is_regular_file() || entry.is_symlink()) return false;
  for (const char* known : {"report.html", "report.md", "comparison.json", "baseline.csv", "candidate.csv",
                            "baseline.config.yaml", "candidate.config.yaml"}) {
    if (name == known) return true;
  }
  return false;
}

std::vector<std::pair<std::string, std::string>> facts_of(
    const std::pair<std::filesystem::path, std::filesystem::path>& files, const Session& baseline,
    const Session& candidate, const DataRequest& data, const PairedRuns& runs) {
  const auto plugin = [](const Session& session) {
    return fmt::format("{} {}", session.plugin().name, session.plugin().version);
  };
  std::string split = data.split;
  if (data.limit > 0) split += fmt::format(", the first {}", grouped(data.limit));
  return {{"configuration of the baseline", files.first.string()},
          {"configuration of the candidate", files.second.string()},
          {"data", data.path.string()},
          {"split", split},
          {"pictures", grouped(std::ssize(runs.baseline.predictions))},
          {"vlmzoo", VLMZOO_VERSION},
          {"LibTorch", TORCH_VERSION},
          {"plugin of the baseline", plugin(baseline)},
          {"plugin of the candidate", plugin(candidate)},
          {"processor", describe_cpu()},
          {"threads", std::to_string(at::get_num_threads())},
          {"time", fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(std::time(nullptr)))}};
}

struct CompareOptions {
  HostOptions host;
  PairOptions pair;
  ThreadOption threads;
  DataOptions data;
  CacheOptions caches;
  PredictOptions predict;
  ComparisonOptions comparison;
  std::vector<std::string> gates;
  std::string output;
  bool sequential = false, json = false, force = false;

  void add_to(Options& options) {
    pair.add_to(options);
    data.add_to(options);
    options.add()("margin", po::value(&comparison.margin)->value_name("M"),
                  "difference of the accuracy that doesn't matter; default 0.02")(
        "alpha", po::value(&comparison.alpha)->value_name("A"), "intervals are of 1 - A and 1 - 2A; default 0.05")(
        "gate", po::value(&gates)->value_name("CONDITION"),
        "condition of the candidate, or exit code 3: accuracy>=0.93, latency_p95<=2x (of the baseline's); repeatable")(
        "answers", po::bool_switch(&predict.answers), "also ask about each picture and compare the answers")(
        "prompt", po::value(&predict.question)->value_name("TEXT"), "question for pictures to which the data has none")(
        "seed", po::value(&comparison.seed)->value_name("N"), "seed of the bootstrap; default 0")(
        "sequential", po::bool_switch(&sequential),
        "one model after the other, even where memory has room for both taking turns")(
        "output", po::value(&output)->value_name("DIR"),
        "folder to create: report.html, report.md, comparison.json, baseline.csv, candidate.csv, the configurations")(
        "force", po::bool_switch(&force), "replace the comparison in --output")("json", po::bool_switch(&json),
                                                                                "print JSON");
    options.synonym("-p", "prompt");
    caches.add_to(options);
    threads.add_to(options);
    host.add_to(options);
  }

  /// The gates. Error: kUsage for whatever is wrong, before anything is loaded.
  std::vector<Gate> check(const Options& options) {
    require_utf8("prompt", predict.question);
    if (options.given("prompt") && !predict.answers) {
      throw Error(ErrorCode::kUsage, "--prompt is for --answers; without it nothing is asked");
    }
    if (force && output.empty()) throw Error(ErrorCode::kUsage, "--force is for --output");
    if (!(comparison.margin >= 0 && comparison.margin < 1)) {
      throw Error(ErrorCode::kUsage, fmt::format("--margin is {}; expected 0 to below 1", comparison.margin));
    }
    if (!(comparison.alpha > 0 && comparison.alpha < 0.5)) {
      throw Error(ErrorCode::kUsage, fmt::format("--alpha is {}; expected above 0 and below 0.5", comparison.alpha));
    }
    std::vector<Gate> result;
    for (const std::string& text : gates) result.push_back(parse_gate(text));
    require_answers(result, predict.answers);
    predict.skip_bad = comparison.skip_bad = data.skip_bad;
    comparison.answers = predict.answers;
    return result;
  }
};

int show(const ComparisonReport& report, bool json) {
  if (json) {
    print_json(to_json(report));
  } else {
    print(to_text(report));
    if (!report.folder.empty()) print(fmt::format("Report: {}\n", (report.folder / "report.html").string()));
  }
  if (!report.gates_hold()) return 3;
  return report.comparison.unreadable > 0 && !report.comparison.options.skip_bad ? 1 : 0;
}

}  // namespace

int run_compare(Arguments arguments) {
  CompareOptions given;
  Options options(
      {"compare", "[options] --baseline FILE|NAME --candidate FILE|NAME --data FOLDER|FILE",
       "Says whether one model may replace another: both on the same pictures, with paired statistics, a\n"
       "verdict by a fixed rule, and a report. Metrics for --gate:\n" +
           describe_metrics(),
       "vlmzoo compare --zoo configs/demo/zoo.yaml --candidate llama_vision --data pictures --output report"});
  given.add_to(options);
  if (!options.parse(arguments)) return 0;
  const std::vector<Gate> gates = given.check(options);
  const DataRequest request = given.data.request();
  const auto files = given.pair.files(options);
  given.host.apply();
  given.threads.apply(options);

  const Session baseline(given.host, files.first, given.pair.settings);
  const Session candidate(given.host, files.second, given.pair.settings);
  const PairedData data = load_paired(request, baseline, candidate);
  const auto unanswered = [](const Sample& sample) { return sample.answer.empty(); };
  if (given.predict.answers && std::ranges::all_of(data.baseline.samples, unanswered)) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} expects no answers, so --answers has nothing to compare", request.path.string()));
  }
  // Opened now: a place that can't be written to has to be told before the work, not after it.
  std::optional<OutputFolder> folder;
  if (!given.output.empty())
    folder.emplace(given.output, given.force, FolderKind{"a comparison", belongs_to_comparison});

  const PairedRuns runs = predict_pair(baseline, candidate, data, given.predict, given.caches, given.sequential);
  if (runs.interrupted()) {
    throw Error(ErrorCode::kInterrupted,
                fmt::format("interrupted; nothing is concluded from a part. {}",
                            given.caches.no_cache ? "With a cache (without --no-cache) the same command could go on"
                                                  : "What was computed is kept: the same command goes on from here"));
  }
  ComparisonReport report{compare(runs.baseline, runs.candidate, given.comparison), {}, {}, {}};
  report.gates = check_gates(gates, report.comparison);
  report.facts = facts_of(files, baseline, candidate, request, runs);
  if (folder) {
    report.folder = folder->path();
    write_report(report, folder->temporary());
    folder->commit();
  }
  return show(report, given.json);
}

}  // namespace vlmzoo::app
