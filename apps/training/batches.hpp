#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "data/regions.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/losses.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo::app {

/// Some samples, ready for the model. I pictures, one per sample.
struct Batch {
  std::vector<std::int64_t> samples;         ///< indices into the dataset, of those that could be read
  at::Tensor labels;                         ///< int64 [I]
  ModelInputs inputs;                        ///< answers stand behind the prompts
  ModelInputs head_inputs;                   ///< the same pictures with the head's prompt, where it has one
  std::vector<std::int64_t> prompt_lengths;  ///< I numbers: tokens before the answer; empty without text
  at::Tensor targets;  ///< int64 [I, L]: the token that should follow each, -100 where none counts; undefined: no text
  at::Tensor region_pixels;                     ///< pixel values of draw_regions() pictures; undefined: none
  at::Tensor pooled;                            ///< fp32 [I, W] from a feature cache, instead of `inputs`
  std::map<std::int64_t, std::string> skipped;  ///< samples that are missing, and why
};

/// What one optimizer step counts, over all of its batches.
struct StepTotals {
  double label_weight = 0;
  std::int64_t answer_tokens = 0, pictures = 0;
};

/// What goes into a batch.
struct BatchPlan {
  bool text = false;     ///< prompts, and answers where the samples have them
  bool answers = false;  ///< with `text`
  bool skip_bad = false;
  std::vector<std::string> augmentations;
  std::string prompt;             ///< question of samples without one of their own
  std::int64_t max_length = 128;  ///< tokens of question and answer
  std::int64_t seed = 0;
  const std::vector<std::vector<Region>>* regions = nullptr;  ///< of each sample
  const Head* head = nullptr;                                 ///< whose prompt `head_inputs` carry, if it has one
};

/// Reads pictures and tokenizes texts. Const methods run on any thread.
class BatchMaker {
 public:
  /// Model and data have to stay. Error: kMismatch for an answer that is longer than max_length.
  BatchMaker(const Model& model, const Dataset& data, BatchPlan plan);

  /// `epoch` and the sample decide the augmentation, nothing else. Errors: those of load_image(), naming the file,
  /// unless skip_bad leaves such samples out.
  Batch make(std::span<const std::int64_t> samples, std::int64_t epoch) const;

  /// As if all of them could be read.
  StepTotals totals(std::span<const std::int64_t> samples, const ClassificationLoss& loss) const;

 private:
  std::string question_of(const Sample& sample) const;
  void add_answers(Batch& batch) const;

  const Model& model_;
  const Dataset& data_;
  BatchPlan plan_;
  std::vector<std::vector<TokenId>> answers_;  // with the stop token; empty: none
};

/// The samples of epoch `epoch`, 0 to n - 1 in an order that seed and epoch decide.
std::vector<std::int64_t> epoch_order(std::int64_t n, std::int64_t seed, std::int64_t epoch);

}  // namespace vlmzoo::app
