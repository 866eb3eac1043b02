#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "cache.hpp"
#include "checkpoint_writer.hpp"
#include "commands.hpp"
#include "evaluation/evaluation.hpp"
#include "evaluation/predictions.hpp"
#include "session.hpp"
#include "training/export.hpp"
#include "training/feature_table.hpp"
#include "training/setup.hpp"
#include "training/trainer.hpp"
#include "training/training_report.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

struct TrainOptions {
  std::string data, output, dtype;
  std::int64_t limit = 0;
  bool resume = false, force = false, skip_bad = false;
  CacheOptions cache;

  void add_to(Options& options) {
    options.add()("data", po::value(&data)->value_name("FOLDER|FILE"), "labels.csv, *.jsonl, or a folder per class")(
        "output", po::value(&output)->value_name("FOLDER"), "folder of this run: checkpoints, metrics, results")(
        "limit", po::value(&limit)->value_name("N"), "the first N samples of each split")(
        "resume", po::bool_switch(&resume), "go on with the run in --output")(
        "force", po::bool_switch(&force), "begin anew: files of the run in --output are removed, others stay")(
        "skip-bad", po::bool_switch(&skip_bad), "leave rows and pictures that can't be read out, and count them");
    options.add()("dtype", po::value(&dtype)->value_name("TYPE"),
                  "of the trained model's file: bf16, fp16 or fp32; default: that of the checkpoint it began with");
    cache.add_to(options);
  }
};

std::vector<std::int64_t> labels_of(const Dataset& data) {
  std::vector<std::int64_t> labels;
  for (const Sample& sample : data.samples) labels.push_back(sample.label);
  return labels;
}

/// Batches of a table: rows are samples.
BatchSource source_of(const FeatureTable& table, const std::vector<std::int64_t>& labels,
                      const ClassificationLoss& loss) {
  const auto labels_at = [&table, &labels](std::span<const std::int64_t> rows) {
    std::vector<std::int64_t> chosen;
    for (const std::int64_t row : rows) {
      chosen.push_back(labels[static_cast<std::size_t>(table.samples[static_cast<std::size_t>(row)])]);
    }
    return at::tensor(chosen, at::kLong);
  };
  BatchSource source;
  source.samples = std::ssize(table.samples);
  source.prepare = [&table, labels_at](std::span<const std::int64_t> rows, std::int64_t) {
    Batch batch;
    batch.samples.assign(rows.begin(), rows.end());
    batch.labels = labels_at(rows);
    batch.pooled = table.pooled.index_select(0, at::tensor(batch.samples, at::kLong));
    return batch;
  };
  source.totals = [labels_at, loss](std::span<const std::int64_t> rows) {
    return StepTotals{label_weight(labels_at(rows), loss), 0, std::ssize(rows)};
  };
  return source;
}

BatchSource source_of(const BatchMaker& maker, const Dataset& data, const ClassificationLoss& loss, bool answers) {
  BatchSource source;
  source.answers = answers;
  source.samples = std::ssize(data.samples);
  source.prepare = [&maker](std::span<const std::int64_t> samples, std::int64_t epoch) {
    return maker.make(samples, epoch);
  };
  source.totals = [&maker, loss](std::span<const std::int64_t> samples) { return maker.totals(samples, loss); };
  return source;
}

/// Of each training sample. Error: kMismatch for one without an entry.
std::vector<std::vector<Region>> load_regions(const std::string& data, const Dataset& train) {
  const fs::path path = data, folder = fs::is_directory(path) ? path : path.parent_path(),
                 file = folder / "regions.jsonl";
  if (!fs::exists(file)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{} does not exist; training.region_loss_weight needs it, set that "
                                                  "to 0 for data without regions",
                                                  file.string()));
  }
  std::map<fs::path, std::vector<Region>> by_picture;
  for (auto& [image, of_image] : read_regions(file)) {
    by_picture.emplace((folder / image).lexically_normal(), std::move(of_image));
  }
  std::vector<std::vector<Region>> regions;
  for (const Sample& sample : train.samples) {
    const auto found = by_picture.find(sample.image.lexically_normal());
    if (found == by_picture.end()) {
      throw Error(ErrorCode::kMismatch, fmt::format("{} has no entry for {}; a picture without regions has an empty "
                                                    "list",
                                                    file.string(), sample.image.string()));
    }
    regions.push_back(found->second);
  }
  return regions;
}

/// With the classes of the data.
ModelConfig model_config(const Session& session, const TrainingData& data) {
  ModelConfig config = session.config().model;
  config.class_names = data.train.class_names;
  config.num_classes = std::ssize(data.train.class_names);
  return config;
}

/// One run from its data to its results.
class Run {
 public:
  Run(const Session& session, const TrainOptions& options)
      : session_(session),
        options_(options),
        training_(settled_training(session.config())),
        data_(load_training_data(session, {options.data, options.limit, options.skip_bad})),
        classification_(classification_loss(training_, data_.train)),
        model_config_(model_config(session, data_)),
        head_(make_head(session.create({.plan_only = true})->info(), model_config_)),
        mode_(training_mode(session.config(), data_, head_)) {
    model_config_.freeze_language_model = !mode_.roles.language;
    if (!mode_.roles.connector) model_config_.freeze_connector = true;
    if (training_.batch_size == 1 && has_batch_norm()) {
      throw Error(ErrorCode::kConfig,
                  "model.classifier.batch_norm needs batches of at least two; raise "
                  "training.batch_size, or set model.classifier.batch_norm=false");
    }
    if (training_.parallel_batches && (has_batch_norm() || has_dropout())) {
      const ClassifierConfig& classifier = head_.config().classifier;
      throw Error(ErrorCode::kConfig,
                  fmt::format("training.parallel_batches computes the batches of a step at once, which batch norm and "
                              "dropout can't take, and model.classifier has batch_norm {} and dropout_rates [{}]; set "
                              "these to false and zeros, or parallel_batches to false",
                              classifier.batch_norm, fmt::join(classifier.dropout_rates, ", ")));
    }
  }

  int operator()() {
    const std::string& resolved = session_.config().resolved;
    const std::string data = data_.fingerprint();
    check_source();
    const RunFolder folder = options_.resume ? RunFolder::open(options_.output, resolved, data)
                                             : RunFolder::create(options_.output, options_.force, resolved, data);
    return mode_.cached ? train_on_features(folder) : train_on_pictures(folder);
  }

 private:
  /// What the run begins with is read while it lasts, so nothing of it may be what the run replaces.
  void check_source() const {
    const fs::path output = options_.output;
    std::error_code error;
    const auto same = [&](const fs::path& source, const char* result) {
      if (!fs::equivalent(source, output / result, error)) return;
      throw Error(ErrorCode::kUsage, fmt::format("{} is what this run begins with, and its result would replace it; "
                                                 "name another --output",
                                                 (output / result).string()));
    };
    same(resolve_pretrained_path(model_config_.pretrained_path), RunFolder::kModel);
    if (!model_config_.head.empty()) same(model_config_.head, RunFolder::kHead);
  }

  bool has_batch_norm() const {
    return std::ranges::any_of(head_.tensors(), [](const NamedTensor& named) { return !named.trainable; });
  }

  bool has_dropout() const {
    return std::ranges::any_of(head_.config().classifier.dropout_rates, [](double rate) { return rate > 0; });
  }

  const Model& model() {
    if (!model_) {
      CreateOptions wanted;
      wanted.trainable = mode_.roles.any();
      if (!mode_.answers) wanted.roles = head_roles(model_config_);
      model_ = session_.create(wanted, model_config_);
    }
    return *model_;
  }

  int train_on_features(const RunFolder& folder) {
    const auto store = options_.cache.open("features", model_fingerprint(session_));
    const auto table_of = [&](const Dataset& data) {
      FeatureTable table = make_feature_table(
          data, head_, store.get(), [this]() -> const Model& { return model(); }, options_.skip_bad);
      for (const std::string& message : std::set<std::string>(table.skipped.begin(), table.skipped.end()))
        warn(message);
      skipped_ += std::ssize(table.skipped);
      return table;
    };
    const FeatureTable features = table_of(data_.train),
                       validation = data_.validation.samples.empty() ? FeatureTable{} : table_of(data_.validation);
    info(fmt::format("features of {} pictures, {} of them computed now, the rest cached",
                     features.samples.size() + validation.samples.size(), features.computed + validation.computed));
    model_.reset();
    release_freed_memory();
    const std::vector<std::int64_t> train_labels = labels_of(data_.train), all = labels_of(data_.validation);
    std::vector<std::int64_t> labels;
    for (const std::int64_t sample : validation.samples) labels.push_back(all[static_cast<std::size_t>(sample)]);
    Objective objective(nullptr, head_, training_, classification_);
    return train(folder, objective, source_of(features, train_labels, classification_),
                 source_of(validation, all, classification_), labels, validation.samples);
  }

  int train_on_pictures(const RunFolder& folder) {
    std::vector<std::vector<Region>> regions;
    if (mode_.regions) regions = load_regions(options_.data, data_.train);
    BatchPlan plan;
    plan.text = plan.answers = mode_.answers;
    plan.skip_bad = options_.skip_bad;
    plan.augmentations = training_.augmentations;
    plan.prompt = training_.prompt;
    plan.max_length = training_.max_length;
    plan.seed = training_.seed;
    plan.regions = mode_.regions ? &regions : nullptr;
    plan.head = &head_;
    BatchPlan plain = plan;
    plain.augmentations.clear();
    plain.regions = nullptr;
    const BatchMaker train_maker(model(), data_.train, plan), validation_maker(model(), data_.validation, plain);
    Objective objective(&model(), head_, training_, classification_);
    return train(folder, objective, source_of(train_maker, data_.train, classification_, mode_.answers),
                 source_of(validation_maker, data_.validation, classification_, mode_.answers),
                 labels_of(data_.validation), {});
  }

  /// `rows`: which sample of the validation set each row of `validation` is; empty: all in order.
  int train(const RunFolder& folder, Objective& objective, const BatchSource& source, const BatchSource& validation,
            const std::vector<std::int64_t>& labels, const std::vector<std::int64_t>& rows) {
    Trainer trainer(training_, objective, folder, source, validation, labels, head_.num_classes(), has_batch_norm());
    if (options_.resume && folder.has_checkpoint()) {
      trainer.resume();
      info(fmt::format("resumed at step {}", trainer.state().step));
    }
    const bool ended = trainer.run();
    skipped_ += trainer.skipped();
    if (skipped_ > 0) warn(fmt::format("{} samples were left out", skipped_));
    if (!ended) {
      warn(fmt::format("interrupted at step {}; go on with --resume", trainer.state().step));
      return exit_code(ErrorCode::kInterrupted);
    }
    write_results(folder, validation.samples > 0 ? trainer.validate(/*answers=*/false) : Trainer::Validation{}, rows);
    return 0;
  }

  void write_results(const RunFolder& folder, const Trainer::Validation& validation,
                     const std::vector<std::int64_t>& rows) {
    HeadConfig config = head_.config();
    const bool enough = std::ssize(validation.samples) >= kFewestToCalibrate;
    const bool changed = training_.classification_loss_weight > 0 || mode_.roles.vision;
    config.temperature = enough ? fit_temperature(validation.logits) : changed ? 1 : config.temperature;
    save_head(folder.path() / RunFolder::kHead, Head(config, head_.tensors()));
    std::string overrides = "model:\n  head: head.safetensors\n";
    if (model_ && !model_->parameters().trainable.empty()) {
      std::optional<DType> dtype;
      if (!options_.dtype.empty()) dtype = parse_dtype(options_.dtype);
      export_model(*model_, model_config_, folder.path() / RunFolder::kModel, dtype);
      overrides += "  pretrained_path: model\n  pretrained: true\n";
    }
    write_file(folder.path() / RunFolder::kTrained, "extends: config.yaml\n" + overrides);
    const ModelRun run = run_of(validation, rows, config);
    if (!run.predictions.empty()) write_file(folder.path() / RunFolder::kPredictions, predictions_csv(run));
    write_training_report(folder.path() / RunFolder::kReport, report_of(folder, run));
    print(fmt::format("{}\n{}\n", (folder.path() / RunFolder::kTrained).string(),
                      (folder.path() / RunFolder::kReport).string()));
  }

  /// The validation set as `eval` would have it.
  ModelRun run_of(const Trainer::Validation& validation, const std::vector<std::int64_t>& rows,
                  const HeadConfig& head) const {
    ModelRun run;
    run.name = session_.config().model.pretrained_path;
    run.model_type = head.model_type;
    run.resolved_config = session_.config().resolved;
    run.class_names = head.class_names;
    run.temperature = head.temperature;
    run.temperature_source = run.temperature == 1 ? "none" : "validation";
    const auto classes = head_.num_classes();
    for (std::size_t i = 0; i < validation.samples.size(); ++i) {
      const std::int64_t row = validation.samples[i];
      const Sample& sample =
          data_.validation.samples[static_cast<std::size_t>(rows.empty() ? row : rows[static_cast<std::size_t>(row)])];
      const auto first = validation.logits.scores.begin() + static_cast<std::ptrdiff_t>(i) * classes;
      Prediction prediction;
      prediction.sample_id = sample.id;
      prediction.image = sample.image;
      prediction.label = sample.label;
      prediction.logits.assign(first, first + classes);
      run.predictions.push_back(std::move(prediction));
    }
    return run;
  }

  static TrainingReport report_of(const RunFolder& folder, ModelRun run) {
    TrainingReport report;
    report.title = folder.path().filename().string();
    report.resolved_config = run.resolved_config;
    for (const OrderedJson& line : folder.metrics()) {
      constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
      const std::int64_t step = line["step"].get<std::int64_t>();
      const double epoch = line.value("epoch", 0.0);
      if (line.contains("eval_accuracy")) {
        report.validation_points.push_back({step, epoch, line.value("eval_loss", kNone),
                                            line.value("eval_accuracy", kNone), line.value("eval_macro_f1", kNone),
                                            line.value("eval_language_loss", kNone), line.value("best", false)});
      } else {
        report.training.push_back({step, epoch, line.value("loss", kNone), line.value("classification_loss", kNone),
                                   line.value("language_loss", kNone), line.value("learning_rate", kNone),
                                   line.value("gradient_norm", kNone)});
      }
    }
    report.validation = std::move(run);
    return report;
  }

  const Session& session_;
  const TrainOptions& options_;
  TrainingConfig training_;
  TrainingData data_;
  ClassificationLoss classification_;
  ModelConfig model_config_;
  Head head_;
  TrainingMode mode_;
  std::unique_ptr<Model> model_;
  std::int64_t skipped_ = 0;
};

}  // namespace

int run_train(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  TrainOptions train;
  Options options(
      {"train", "[options] --data FOLDER|FILE --output FOLDER",
       "Trains a head on a model's features, or model and head together: whatever the configuration doesn't\n"
       "freeze. Can be stopped at any time (Ctrl-C, SIGTERM, a crash) and goes on with --resume.",
       "vlmzoo train --config configs/internvl.yaml --data receipts/ --output runs/receipts"});
  train.add_to(options);
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (train.data.empty()) throw Error(ErrorCode::kUsage, "--data is missing");
  if (train.output.empty()) throw Error(ErrorCode::kUsage, "--output is missing");
  if (!train.dtype.empty()) parse_dtype(train.dtype);
  require_range("limit", train.limit, 0, std::int64_t{1} << 40);
  if (train.resume && train.force) throw Error(ErrorCode::kUsage, "--resume and --force exclude each other");
  host.apply();
  threads.apply(options);
  keep_freed_memory();
  const Session session(host, model_options, options);
  return Run(session, train)();
}

}  // namespace vlmzoo::app
