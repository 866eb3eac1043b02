#include "compare/model_pair.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/weights.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {
namespace {

/// A model of the zoo file by name, else a configuration by its path.
std::filesystem::path file_of(const Zoo& zoo, const std::string& name) {
  const std::vector<std::string> names = zoo.names();
  const bool known = std::find(names.begin(), names.end(), name) != names.end();
  return known || !std::filesystem::is_regular_file(name) ? zoo.config(name) : std::filesystem::path(name);
}

void require_same_classes(std::vector<std::string> baseline, std::vector<std::string> candidate) {
  const std::string message = fmt::format(
      "the models have different classes: the baseline {}, the candidate {}; both need heads of the same "
      "classes (model.id2label, model.head)",
      fmt::join(baseline, ", "), fmt::join(candidate, ", "));
  std::sort(baseline.begin(), baseline.end());
  std::sort(candidate.begin(), candidate.end());
  if (baseline != candidate) throw Error(ErrorCode::kMismatch, message);
}

/// From what `info` knows; loads nothing.
MemoryNeed need_of(const Session& session, RoleSet roles) {
  const auto plan = session.create({.plan_only = true, .roles = roles});
  return {plan->parameters().bytes(session.precision(), roles), plan->info().working_memory,
          resolve_device(session.config().model.device).is_cpu()};
}

PairedRuns take_turns(PredictionRun& baseline, PredictionRun& candidate, std::size_t pictures,
                      const std::string& what) {
  Progress progress(what, pictures, "pictures");
  bool more = true;
  for (std::size_t i = 0; more; ++i) {
    // Who comes first changes, so that what the second one finds warm is nobody's advantage.
    PredictionRun& first = i % 2 == 0 ? baseline : candidate;
    PredictionRun& second = i % 2 == 0 ? candidate : baseline;
    more = first.step() && second.step();
    if (more) progress.advance(1);
  }
  return {baseline.finish(), candidate.finish()};
}

}  // namespace

void PairOptions::add_to(Options& options) {
  options.add()("baseline", po::value(&baseline)->value_name("FILE|NAME"),
                "configuration of the model that is in use, or its name in --zoo (default: the active one)")(
      "candidate", po::value(&candidate)->value_name("FILE|NAME"),
      "configuration of the model that may replace it, or its name in --zoo")(
      "zoo", po::value(&zoo)->value_name("FILE"), "zoo file that names the models")(
      "set", po::value(&settings)->value_name("KEY=VALUE"),
      "override of one key of both configurations, as in model.precision=fp32 (repeatable)");
}

std::pair<std::filesystem::path, std::filesystem::path> PairOptions::files(const Options& options) const {
  for (const std::string& setting : settings) require_utf8("set", setting);
  if (candidate.empty())
    throw Error(ErrorCode::kUsage, "--candidate is missing: which model may replace the baseline?");
  if (!options.given("zoo")) {
    if (baseline.empty()) throw Error(ErrorCode::kUsage, "--baseline is missing; or give --zoo for the active model");
    return {baseline, candidate};
  }
  const Zoo read = read_zoo(zoo);
  return {file_of(read, baseline.empty() ? read.active : baseline), file_of(read, candidate)};
}

PairedData load_paired(const DataRequest& request, const Session& baseline, const Session& candidate) {
  const std::vector<std::string> first = class_names(baseline), second = class_names(candidate);
  if (!first.empty() && !second.empty()) require_same_classes(first, second);
  PairedData data{load_dataset(with_classes(request, baseline)), load_dataset(with_classes(request, candidate))};
  require_same_classes(data.baseline.class_names, data.candidate.class_names);
  return data;
}

Residency choose_residency(const MemoryNeed& baseline, const MemoryNeed& candidate, std::uint64_t free) {
  if (!baseline.on_cpu || !candidate.on_cpu) {
    return {false, "a model is not on the processor: they run one after the other"};
  }
  const std::uint64_t need = baseline.weights + candidate.weights + std::max(baseline.working, candidate.working);
  const bool together = need <= free;
  const std::string sizes = fmt::format("need {} of {} that are free", format_bytes(need), format_bytes(free));
  return {together, together ? fmt::format("both models fit at once ({}): they take turns, picture by picture", sizes)
                             : fmt::format("both models don't fit at once ({}): they run one after the other", sizes)};
}

PairedRuns predict_pair(const Session& baseline, const Session& candidate, const PairedData& data,
                        const PredictOptions& options, const CacheOptions& caches, bool sequential) {
  const auto first_cache = open_result_cache(caches, baseline), second_cache = open_result_cache(caches, candidate);
  PredictOptions first = options, second = options;
  first.cache = first_cache.get();
  second.cache = second_cache.get();
  first.what = "baseline";
  second.what = "candidate";
  const auto roles_of = [&](const Session& session) {
    return options.answers ? RoleSet::all() : head_roles(session.config().model);
  };
  const Residency residency = sequential
                                  ? Residency{false, "the models run one after the other"}
                                  : choose_residency(need_of(baseline, roles_of(baseline)),
                                                     need_of(candidate, roles_of(candidate)), available_memory());
  info(residency.reason);
  if (residency.together) {
    PredictionRun baseline_run(baseline, data.baseline, first), candidate_run(candidate, data.candidate, second);
    return take_turns(baseline_run, candidate_run, data.baseline.samples.size(), "comparing");
  }
  PairedRuns runs;
  runs.baseline = predict(baseline, data.baseline, first);
  if (!runs.baseline.interrupted) {
    release_freed_memory();
    runs.candidate = predict(candidate, data.candidate, second);
  }
  return runs;
}

}  // namespace vlmzoo::app
