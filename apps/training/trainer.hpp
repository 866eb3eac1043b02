#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/ordered_stream.hpp"
#include "training/batches.hpp"
#include "training/objective.hpp"
#include "training/run_folder.hpp"
#include "vlmzoo/metrics.hpp"

namespace vlmzoo::app {

/// Where batches come from. Both are called with indices of samples; `prepare` runs on background threads.
struct BatchSource {
  std::int64_t samples = 0;
  bool answers = false;  ///< the language loss takes part
  std::function<Batch(std::span<const std::int64_t> samples, std::int64_t epoch)> prepare;
  std::function<StepTotals(std::span<const std::int64_t> samples)> totals;
};

/// Which samples the optimizer steps of a run see: every epoch all of them once, in an order of its own. Const methods
/// run on any thread.
class StepPlan {
 public:
  /// `no_single`: a batch of one sample, which batch norm can't take, joins the one before it or is left out. Error:
  /// kMismatch when no batch is left.
  StepPlan(std::int64_t samples, const TrainingConfig& training, bool no_single);

  std::int64_t total_steps() const { return total_steps_; }
  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  std::int64_t epoch_of(std::int64_t step) const { return step / steps_per_epoch_; }
  std::int64_t batches_before(std::int64_t step) const;
  /// The samples of the run's n-th batch.
  std::vector<std::int64_t> batch(std::int64_t number) const;

 private:
  struct Range {
    std::int64_t begin = 0, end = 0;  // in the epoch's order
  };
  std::int64_t samples_, seed_, steps_per_epoch_ = 0, total_steps_ = 0;
  std::vector<Range> batches_;             // of one epoch
  std::vector<std::int64_t> first_batch_;  // of each step of one epoch
  mutable std::mutex mutex_;
  mutable std::int64_t ordered_epoch_ = -1;
  mutable std::shared_ptr<const std::vector<std::int64_t>> order_;
};

/// One run: steps, evaluations, checkpoints. On one thread a run that was interrupted and resumed ends with the same
/// bits as one that wasn't.
class Trainer {
 public:
  /// All arguments have to stay. `validation_labels` are those of `validation`; both empty without a validation split.
  Trainer(const TrainingConfig& training, Objective& objective, const RunFolder& folder, const BatchSource& train,
          const BatchSource& validation, std::vector<std::int64_t> validation_labels, std::int64_t classes,
          bool batch_norm);

  /// Goes on from the folder's checkpoint.
  void resume();

  /// To the last step. False when a signal ended it; a checkpoint is saved then. At the end the objective's tensors
  /// hold the best evaluation's values. Errors: kMismatch for a loss that isn't finite, naming the step; those of the
  /// data, after a checkpoint is saved; kIo. The last good checkpoint stays.
  bool run();

  /// Of the validation samples that could be read, by the tensors as they are.
  struct Validation {
    Predictions logits;
    std::vector<std::int64_t> samples;
    std::optional<double> language_loss;  ///< per token of their answers
  };
  Validation validate(bool answers);

  const RunState& state() const { return state_; }
  std::int64_t skipped() const;  ///< samples that couldn't be read

 private:
  std::vector<NamedTensor> all_state() const;
  void train_to_the_end();
  void take_step();
  Batch next_batch();
  void note_skipped(const Batch& batch, const BatchSource& source);
  bool has_language(std::int64_t step) const;
  void log();
  void evaluate();
  void save();
  std::string advice() const;  // when values aren't finite
  void use_best();

  const TrainingConfig& training_;
  Objective& objective_;
  const RunFolder& folder_;
  const BatchSource &train_, &validation_;
  std::vector<std::int64_t> validation_labels_;
  std::int64_t classes_;
  bool batch_norm_;
  StepPlan plan_;
  Optimizer optimizer_;
  std::optional<Ema> ema_;
  RunState state_;
  std::map<const BatchSource*, std::set<std::int64_t>> skipped_;  // samples
  std::set<std::string> told_;                                    // of them
  std::unique_ptr<OrderedStream<Batch>> stream_;
};

}  // namespace vlmzoo::app
