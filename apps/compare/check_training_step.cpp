#include <fmt/format.h>

#include <cmath>

#include "compare/verification.hpp"
#include "training/batches.hpp"
#include "training/objective.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo::app {
namespace {

constexpr double kLearningRate = 1e-5;

/// Bytes of one step, estimated before anything is loaded.
struct Need {
  std::uint64_t weights = 0;  ///< trained roles, and those that gradients cross, in fp32
  std::uint64_t state = 0;    ///< gradients and AdamW's two averages of what is trained
  std::uint64_t working = 0;  ///< intermediate results of two pictures, kept for the backward pass
  std::uint64_t total() const { return weights + state + working; }
};

Need need_of(const Session& session, const Model& plan) {
  const ModelConfig& config = session.config().model;
  const RoleSet roles = config.multimodal ? RoleSet::all() : head_roles(config);
  const RoleSet trained = trainable_roles(config);
  const RolePrecision precision = training_precision(session.precision(), trained);
  const RolePrecision full{Precision::kFp32, Precision::kFp32, Precision::kFp32};
  return {plan.parameters().bytes(precision, roles), 3 * plan.parameters().bytes(full, trained),
          4 * plan.info().working_memory};
}

/// Two samples with something to say: the name of the class where the data has no answer.
Dataset two_of(const Dataset& data) {
  Dataset two;
  two.class_names = data.class_names;
  for (std::size_t i = 0; i < 2; ++i) {
    Sample sample = data.samples[i % data.samples.size()];
    if (sample.answer.empty()) sample.answer = data.class_names[static_cast<std::size_t>(sample.label)];
    two.samples.push_back(std::move(sample));
  }
  return two;
}

/// A step as `train` takes it.
Check step(const Session& session, const Dataset& data, const VerifyOptions& options, const Need& need) {
  const ModelConfig& config = session.config().model;
  const TrainingConfig& training = session.config().training;
  const std::uint64_t before = resident_memory();
  const auto model =
      session.create({.trainable = true, .roles = config.multimodal ? RoleSet::all() : head_roles(config)});
  Head head = make_head(model->info(), config);
  BatchPlan plan;
  plan.text = plan.answers = config.multimodal && model->tokenizer() != nullptr;
  plan.prompt = options.question.empty() ? training.prompt : options.question;
  plan.max_length = training.max_length;
  plan.head = &head;
  const Dataset two = two_of(data);
  const BatchMaker maker(*model, two, plan);
  TrainingConfig plain;
  plain.memory_efficient = training.memory_efficient;
  Objective objective(model.get(), head, plain, {});
  Optimizer optimizer({.weight_decay = 0}, objective.trained());
  std::int64_t parameters = 0;
  for (const TrainedTensor& tensor : optimizer.tensors()) parameters += tensor.value.numel();
  check_interrupt();
  constexpr std::int64_t kBoth[] = {0, 1};
  const double loss = objective.backward(maker.make(kBoth, 0), maker.totals(kBoth, {}), /*language=*/true).total;
  const double norm = clip_gradients(optimizer.tensors(), 1);
  const bool finite = std::isfinite(loss) && std::isfinite(norm);
  if (finite) optimizer.step(kLearningRate);
  const std::uint64_t after = resident_memory(), grown = after > before ? after - before : 0;
  return {"", finite && norm > 0 ? CheckStatus::kPass : CheckStatus::kFail,
          fmt::format("AdamW step on 2 pictures{}: loss {:.4g}, gradient norm {:.4g} over {} parameters in {} tensors "
                      "of model and head; {} more in memory (estimated {}, {} were free)",
                      plan.text ? " and their answers" : "", loss, norm, parameters, optimizer.tensors().size(),
                      format_bytes(grown), format_bytes(need.total()), format_bytes(available_memory() + grown))};
}

}  // namespace

Check check_training_step(const Session& candidate, const Dataset& data, const VerifyOptions& options) {
  return guarded("training step", [&]() -> Check {
    const auto plan = candidate.create({.plan_only = true});
    const Need need = need_of(candidate, *plan);
    const std::uint64_t free = available_memory();
    if (need.total() > free) {
      return {
          "", CheckStatus::kSkipped,
          fmt::format("would need about {} (weights {}, gradients and optimizer {}, intermediate results {}) and {} "
                      "are free; model.freeze_language_model: true needs less",
                      format_bytes(need.total()), format_bytes(need.weights), format_bytes(need.state),
                      format_bytes(need.working), format_bytes(free))};
    }
    return step(candidate, data, options, need);
  });
}

}  // namespace vlmzoo::app
