#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "output.hpp"
#include "training/objective.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo::app {

/// Sums since the last logged step.
struct LogWindow {
  LossParts loss;
  double gradient_norm = 0, learning_rate = 0, seconds = 0, waited = 0;
  std::int64_t steps = 0, language_steps = 0, pictures = 0;
};

/// How far a run is, beside its tensors.
struct RunState {
  std::int64_t step = 0;            ///< optimizer steps taken
  std::int64_t evaluated_step = 0;  ///< the last one behind which the model was evaluated
  EarlyStopping stopping;
  double best_loss = 0;  ///< of the round that is the best one
  LogWindow window;
  bool done = false;  ///< the last step is taken, or early stopping ended it
};

/// The files of one training run. Each appears complete or not at all:
///   config.yaml            what the run was asked for
///   checkpoint.safetensors all that a later process needs to go on: tensors, and RunState in the metadata
///   best.safetensors       model and head of the best evaluation (averaged, with ema_decay)
///   metrics.jsonl          a line per logged step and per evaluation; appended
/// Beside them `train` puts its results, under the names below.
class RunFolder {
 public:
  static constexpr const char* kHead = "head.safetensors";
  static constexpr const char* kModel = "model";
  static constexpr const char* kTrained = "trained.yaml";
  static constexpr const char* kReport = "report.html";
  static constexpr const char* kPredictions = "predictions.csv";

  /// A new run; the folder is made, its parent has to exist. Errors: kUsage when it isn't empty (--resume goes on with
  /// a run, --force removes it and leaves files of other names alone) or another process works in it, kIo.
  static RunFolder create(const std::filesystem::path& path, bool force, const std::string& config,
                          const std::string& data);
  /// One that is there. Errors: kNotFound; kConfig, naming every key that differs, when `config` would compute
  /// something else; kUsage when another process works in it.
  static RunFolder open(const std::filesystem::path& path, const std::string& config, const std::string& data);

  const std::filesystem::path& path() const { return path_; }
  bool has_checkpoint() const;

  void save(const RunState& state, std::span<const NamedTensor> tensors) const;
  /// Copies the checkpoint's values into `tensors`; metrics of later steps are cut off. Errors: kCorrupt;
  /// kMismatch for other data or other tensors.
  RunState load(std::span<const NamedTensor> tensors) const;

  void save_best(std::span<const NamedTensor> tensors) const;
  bool has_best() const;
  void load_best(std::span<const NamedTensor> tensors) const;

  /// `line` has to have the key "step".
  void log(const OrderedJson& line) const;
  std::vector<OrderedJson> metrics() const;

 private:
  /// Locks the folder, and removes what a save that was killed left in it.
  RunFolder(std::filesystem::path path, std::string data);
  void cut_metrics(std::int64_t step) const;

  std::filesystem::path path_;
  std::string data_;                  // fingerprint
  std::shared_ptr<const void> lock_;  // one process in a folder
};

/// Keys whose values differ between two resolved configurations and change what training computes.
std::vector<std::string> training_differences(const std::string& before, const std::string& now);

}  // namespace vlmzoo::app
