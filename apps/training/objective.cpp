#include "training/objective.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/binary_cross_entropy_with_logits.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "vlmzoo/nn/autocast.hpp"
#include "vlmzoo/nn/one_thread_each.hpp"
#include "vlmzoo/nn/recompute.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::app {
namespace {

void add(std::optional<double>& sum, const std::optional<double>& value) {
  if (value) sum = sum.value_or(0) + *value;
}

}  // namespace

LossParts& LossParts::operator+=(const LossParts& other) {
  total += other.total;
  add(classification, other.classification);
  add(language, other.language);
  add(region, other.region);
  return *this;
}

Objective::Objective(const Model* model, Head& head, const TrainingConfig& training,
                     const ClassificationLoss& classification)
    : model_(model), head_(head), training_(training), classification_(classification) {
  const auto take = [&](const char* prefix, std::vector<TrainedTensor> tensors) {
    for (TrainedTensor& tensor : tensors) {
      tensor.name = prefix + tensor.name;
      trained_.push_back(std::move(tensor));
    }
  };
  if (model != nullptr) take("model.", trained_tensors(*model));
  take("head.", trained_tensors(head));
  if (model != nullptr && training.region_loss_weight > 0) {
    regions_.emplace(*model);
    const std::int64_t width = model->info().num_features;
    region_weight_ = at::empty({2, width}, at::kFloat);
    fill_formula("region.weight", region_weight_.sizes(), training.seed, 0,
                 {region_weight_.mutable_data_ptr<float>(), static_cast<std::size_t>(region_weight_.numel())});
    region_bias_ = at::zeros({2}, at::kFloat);
    region_weight_.requires_grad_(true);
    region_bias_.requires_grad_(true);
    take("region.", {{"weight", region_weight_, {}}, {"bias", region_bias_, {}}});
  }
}

std::vector<NamedTensor> Objective::buffers() const {
  std::vector<NamedTensor> result;
  for (const NamedTensor& named : head_.tensors()) {
    if (!named.trainable) result.push_back({"head." + named.name, named.tensor, false});
  }
  return result;
}

std::vector<NamedTensor> Objective::state() const {
  std::vector<NamedTensor> result;
  for (const TrainedTensor& tensor : trained_) result.push_back({tensor.name, tensor.value, true});
  for (const NamedTensor& named : buffers()) result.push_back(named);
  return result;
}

/// Several chunks would add to the leaves' gradients themselves, in whatever order threads get there.
std::int64_t Objective::rows_at_once() const {
  return training_.parallel_batches ? std::numeric_limits<std::int64_t>::max() : LanguageLoss().rows_at_once;
}

at::Tensor Objective::language_part(const Batch& batch, const ImageFeatures& features, KvCache& cache,
                                    double normalizer) const {
  const TextOutput output = model_->forward(batch.inputs, &features, cache);
  return language_loss(
      output.last_hidden_state, batch.targets, [this](const at::Tensor& x) { return model_->lm_head(x); },
      {.label_smoothing = 0, .rows_at_once = rows_at_once()}, normalizer);
}

at::Tensor Objective::region_part(const Batch& batch, const ImageFeatures& features, const StepTotals& totals) const {
  const at::Tensor& hidden = features.last_hidden_state;
  const std::int64_t before = RegionTargets::tokens_before_patches(hidden.size(1));
  const RegionTargets::Patches patches = (*regions_)(batch.region_pixels, hidden.size(1));
  const at::Tensor scores =
      at::linear(hidden.narrow(1, before, hidden.size(1) - before).to(at::kFloat), region_weight_, region_bias_);
  std::int64_t first = 0;  // each picture counts the same, whatever its tiles and padding, so that batches add up
  for (const std::int64_t tiles : features.tiles_per_image) {
    const at::Tensor weights = patches.weights.narrow(0, first, tiles);
    weights.div_(2 * std::max(1.0, weights.sum().item<double>()));
    first += tiles;
  }
  const at::Tensor sum =
      at::binary_cross_entropy_with_logits(scores, patches.targets, patches.weights, {}, at::Reduction::Sum);
  return sum / static_cast<double>(totals.pictures);
}

at::Tensor Objective::training_logits(const Batch& batch, const ImageFeatures& features) {
  if (batch.pooled.defined()) return head_.forward_training(batch.pooled).logits;
  const RecomputeScope keep(false);  // a head with a prompt has a cache of its own, gone before the backward pass
  return train_head(*model_, head_, head_.needs_language() ? batch.head_inputs : batch.inputs, &features).logits;
}

Objective::Loss Objective::loss(const Batch& batch, const StepTotals& totals, bool language) {
  Loss loss;
  LossParts& parts = loss.parts;
  const auto count = [&](std::optional<double>& part, const at::Tensor& value, double weight) {
    part = value.item<double>();
    parts.total += weight * *part;
    if (weight != 0) loss.total = loss.total.defined() ? loss.total + weight * value : weight * value;
  };
  ImageFeatures features;
  if (!batch.pooled.defined()) features = model_->encode_images(batch.inputs);
  if (training_.classification_loss_weight > 0) {
    const at::Tensor logits = training_logits(batch, features);
    count(parts.classification, classification_loss(logits, batch.labels, classification_, totals.label_weight),
          training_.classification_loss_weight);
  }
  if (language && totals.answer_tokens > 0 && batch.targets.defined() && target_count(batch.targets) > 0) {
    loss.cache = model_->new_cache(batch.inputs.input_ids.size(0), batch.inputs.input_ids.size(1));
    count(parts.language, language_part(batch, features, *loss.cache, static_cast<double>(totals.answer_tokens)),
          training_.language_loss_weight);
  }
  if (regions_ && batch.region_pixels.defined()) {
    count(parts.region, region_part(batch, features, totals), training_.region_loss_weight);
  }
  if (!std::isfinite(parts.total)) loss.total.reset();
  return loss;
}

LossParts Objective::backward(const Batch& batch, const StepTotals& totals, bool language) {
  const AutocastScope autocast({at::kCPU, training_.bf16, at::kBFloat16});
  const RecomputeScope recompute(training_.memory_efficient);
  const Loss made = loss(batch, totals, language);
  if (made.total.defined()) made.total.backward();
  return made.parts;
}

LossParts Objective::backward(const std::vector<Batch>& batches, const StepTotals& totals, bool language) {
  std::vector<at::Tensor> leaves;
  for (const TrainedTensor& tensor : trained_) leaves.push_back(tensor.value);
  struct Result {
    LossParts parts;
    std::vector<at::Tensor> gradients;
  };
  std::vector<Result> results(batches.size());
  one_thread_each(std::ssize(batches), [&](std::int64_t index) {
    const AutocastScope autocast({at::kCPU, training_.bf16, at::kBFloat16});
    const auto i = static_cast<std::size_t>(index);
    const Loss made = loss(batches[i], totals, language);
    results[i].parts = made.parts;
    if (!made.total.defined()) return;
    results[i].gradients = torch::autograd::grad({made.total}, leaves, /*grad_outputs=*/{}, /*retain_graph=*/false,
                                                 /*create_graph=*/false, /*allow_unused=*/true);
  });
  LossParts sum;
  for (const Result& result : results) {
    sum += result.parts;
    for (std::size_t i = 0; i < result.gradients.size(); ++i) {
      const at::Tensor& more = result.gradients[i];
      if (!more.defined()) continue;
      at::Tensor& gradient = leaves[i].mutable_grad();
      gradient = gradient.defined() ? gradient.add_(more) : more.clone(at::MemoryFormat::Contiguous);  // may be shared
    }
  }
  return sum;
}

Objective::Judgement Objective::judge(const Batch& batch, bool answers) const {
  const at::NoGradGuard no_graph;
  const AutocastScope autocast({at::kCPU, training_.bf16, at::kBFloat16});
  Judgement result;
  if (batch.pooled.defined()) {
    result.logits = head_.forward_pooled(batch.pooled).logits;
    return result;
  }
  const ImageFeatures features = model_->encode_images(batch.inputs);
  result.logits = run_head(*model_, head_, head_.needs_language() ? batch.head_inputs : batch.inputs, &features).logits;
  if (answers && batch.targets.defined()) result.answer_tokens = target_count(batch.targets);
  if (result.answer_tokens > 0) {
    const auto cache = model_->new_cache(batch.inputs.input_ids.size(0), batch.inputs.input_ids.size(1));
    result.answer_loss = language_part(batch, features, *cache, /*normalizer=*/1).item<double>();
  }
  return result;
}

}  // namespace vlmzoo::app
