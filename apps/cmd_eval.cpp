#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>

#include "cache.hpp"
#include "commands.hpp"
#include "data/dataset.hpp"
#include "evaluation/evaluation.hpp"
#include "evaluation/evaluation_report.hpp"
#include "evaluation/predictions.hpp"
#include "output.hpp"
#include "output_folder.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo::app {
namespace {

constexpr const char* kReport = "report.html";
constexpr const char* kPredictions = "predictions.csv";
constexpr const char* kResult = "evaluation.json";
constexpr const char* kConfig = "config.yaml";

bool belongs_to_evaluation(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return entry.is_regular_file() && !entry.is_symlink() &&
         (name == kReport || name == kPredictions || name == kResult || name == kConfig);
}

/// The samples of the validation split, none of which is evaluated itself; empty where there are none.
Dataset validation_of(const DataRequest& request, const Dataset& evaluated) {
  Dataset result;
  result.class_names = evaluated.class_names;
  const bool has_splits = !evaluated.samples.front().split.empty();
  if (!has_splits || request.split == "val" || request.split == "all") return result;
  DataRequest all = request;
  all.split = "all";
  all.limit = 0;
  Dataset whole = load_dataset(all);
  std::copy_if(std::make_move_iterator(whole.samples.begin()), std::make_move_iterator(whole.samples.end()),
               std::back_inserter(result.samples), [](const Sample& sample) { return sample.split == "val"; });
  if (request.limit > 0 && request.limit < std::ssize(result.samples)) {
    result.samples.resize(static_cast<std::size_t>(request.limit));
  }
  return result;
}

/// Predictions at the temperature that suits the validation split, where there is one.
ModelRun run_model(const Session& session, const DataRequest& request, const Dataset& dataset,
                   const PredictOptions& options) {
  const Dataset validation = validation_of(request, dataset);
  ModelRun run = predict(session, dataset, options);
  if (run.fresh_head) {
    warn(
        "the classification head is freshly initialised (untrained): its classes mean nothing; name a trained one in "
        "model.head");
  }
  if (run.interrupted || validation.samples.empty()) return run;
  PredictOptions quick = options;
  quick.answers = false;
  quick.what = kCalibrating;
  const ModelRun held_out = predict(session, validation, quick);
  run.interrupted = held_out.interrupted;
  if (!run.interrupted) calibrate(run, held_out);
  return run;
}

OrderedJson document(const Evaluation& evaluation, const DataRequest& request, const Dataset& dataset) {
  OrderedJson result = to_json(evaluation);
  result["data"] = request.path.string();
  result["split"] = request.split;
  result["limit"] = request.limit;
  result["skipped_rows"] = dataset.skipped;
  return result;
}

void write_folder(OutputFolder& folder, const OrderedJson& json, const Evaluation& evaluation, const ModelRun& run,
                  const DataRequest& request) {
  const std::filesystem::path& place = folder.temporary();
  write_file(place / kResult, to_text(json));
  write_file(place / kPredictions, predictions_csv(run));
  write_file(place / kConfig, run.resolved_config);
  write_evaluation_report(place / kReport, evaluation, run,
                          fmt::format("{}, split {}, {} pictures", request.path.string(), request.split,
                                      grouped(std::ssize(run.predictions))));
  folder.commit();
}

}  // namespace

int run_eval(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  DataOptions data;
  CacheOptions cache_options;
  PredictOptions predict_options;
  std::string output;
  bool json = false, force = false;
  Options options({"eval", "[options] --data FOLDER|FILE",
                   "Tells how good the classes of a model are on labelled pictures: accuracy with its interval,\n"
                   "F1, calibration, confusion, latency, memory; docs/evaluation.md explains each.",
                   "vlmzoo eval --config configs/internvl.yaml --data pictures --output evaluation"});
  options.add()("output", po::value(&output)->value_name("DIR"),
                "folder to create: report.html, predictions.csv, evaluation.json, config.yaml")(
      "force", po::bool_switch(&force), "replace the evaluation in --output")(
      "answers", po::bool_switch(&predict_options.answers), "also ask about each picture and judge the answers")(
      "prompt", po::value(&predict_options.question)->value_name("TEXT"),
      "question for pictures to which the data has none; default: training.prompt of the configuration")(
      "json", po::bool_switch(&json), "print JSON");
  options.synonym("-p", "prompt");
  data.add_to(options);
  cache_options.add_to(options);
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  require_utf8("prompt", predict_options.question);
  if (options.typed("prompt") && !predict_options.answers) {
    throw Error(ErrorCode::kUsage, "--prompt is for --answers; without it nothing is asked");
  }
  if (options.typed("force") && output.empty()) throw Error(ErrorCode::kUsage, "--force is for --output");
  const DataRequest plain = data.request();
  host.apply();
  threads.apply(options);

  const Session session(host, model_options, options);
  const DataRequest request = with_classes(plain, session);
  const Dataset dataset = load_dataset(request);
  // Opened now: a place that can't be written to has to be told before the work, not after it.
  std::optional<OutputFolder> folder;
  if (!output.empty()) folder.emplace(output, force, FolderKind{"an evaluation", belongs_to_evaluation});
  const auto cache = open_result_cache(cache_options, session);
  predict_options.cache = cache.get();
  predict_options.skip_bad = data.skip_bad;

  const ModelRun run = run_model(session, request, dataset, predict_options);
  if (run.interrupted && run.errors() == std::ssize(run.predictions))
    throw Error(ErrorCode::kInterrupted, "interrupted");
  const Evaluation evaluation = evaluate(run);
  const OrderedJson result = document(evaluation, request, dataset);
  if (folder && run.interrupted && force) {
    warn(fmt::format("interrupted: {} was not replaced", folder->path().string()));
  } else if (folder) {
    write_folder(*folder, result, evaluation, run, request);
    info(fmt::format("report: {}", (folder->path() / kReport).string()));
  }
  if (json) {
    print_json(result);
  } else {
    print(to_text(evaluation));
  }
  if (run.interrupted) return exit_code(ErrorCode::kInterrupted);
  return evaluation.errors > 0 && !data.skip_bad ? 1 : 0;
}

}  // namespace vlmzoo::app
