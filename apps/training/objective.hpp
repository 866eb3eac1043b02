#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "training/batches.hpp"
#include "training/region_targets.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo::app {

/// What the parts of a loss were, each before its weight; a part that doesn't take part is empty.
struct LossParts {
  double total = 0;
  std::optional<double> classification, language, region;

  LossParts& operator+=(const LossParts& other);
};

/// The loss of a model and a head, its gradients, and the tensors they are of.
class Objective {
 public:
  /// Model and head have to stay. `model` is null in a run on cached features. A fresh layer for the region loss, when
  /// that is wanted, is seeded by training.seed.
  Objective(const Model* model, Head& head, const TrainingConfig& training, const ClassificationLoss& classification);

  /// All that training changes: values of the model ("model." + name), of the head ("head." + name), of the region
  /// layer ("region." + name).
  const std::vector<TrainedTensor>& trained() const { return trained_; }
  /// The same with the buffers of the head: what a checkpoint has to hold.
  std::vector<NamedTensor> state() const;
  /// Buffers of the head, which a forward pass in training changes before the step is taken.
  std::vector<NamedTensor> buffers() const;

  /// Adds the gradients of one batch; those of the batches of a step add up to the gradient of one batch of all of
  /// them. `language`: the language loss counts. Dropout draws from ATen's generator.
  LossParts backward(const Batch& batch, const StepTotals& totals, bool language);

  /// The same for several batches at once, each on one thread, for models whose products are too small for several
  /// threads. Gradients are added in the order of the batches, so they don't depend on the number of threads; those of
  /// all batches exist at once. Needs training.parallel_batches, and a head without dropout and batch norm: their state
  /// changes with every batch.
  LossParts backward(const std::vector<Batch>& batches, const StepTotals& totals, bool language);

  /// What a batch gets without dropout, no graph.
  struct Judgement {
    at::Tensor logits;       ///< [I, K]
    double answer_loss = 0;  ///< sum over the answers' tokens
    std::int64_t answer_tokens = 0;
  };
  /// `answers`: with the loss of its answers.
  Judgement judge(const Batch& batch, bool answers) const;

 private:
  /// A loss and what its backward pass needs beside its graph.
  struct Loss {
    LossParts parts;
    at::Tensor total;                ///< undefined when no part has a gradient, or it isn't finite
    std::unique_ptr<KvCache> cache;  ///< the backward pass may use it again
  };
  Loss loss(const Batch& batch, const StepTotals& totals, bool language);

  at::Tensor training_logits(const Batch& batch, const ImageFeatures& features);
  /// Summed over the answers' tokens, divided by `normalizer`.
  at::Tensor language_part(const Batch& batch, const ImageFeatures& features, KvCache& cache, double normalizer) const;
  std::int64_t rows_at_once() const;
  at::Tensor region_part(const Batch& batch, const ImageFeatures& features, const StepTotals& totals) const;

  const Model* model_;
  Head& head_;
  TrainingConfig training_;
  ClassificationLoss classification_;
  std::vector<TrainedTensor> trained_;
  std::optional<RegionTargets> regions_;
  at::Tensor region_weight_, region_bias_;  // [2, C], [2]
};

}  // namespace vlmzoo::app
