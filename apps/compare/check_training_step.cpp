#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <cmath>

#include "compare/verification.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::int64_t kAnswerTokens = 3;  // of the prompt's end, as targets of the language loss
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
  const bool vision = !config.freeze_vision_encoder, language = config.multimodal && !config.freeze_language_model;
  const RoleSet trained{vision, config.multimodal && (vision || language), language};
  RolePrecision precision = session.precision();
  if (trained.vision) precision.vision = Precision::kFp32;
  if (trained.connector) precision.connector = precision.language = Precision::kFp32;
  const RolePrecision full{Precision::kFp32, Precision::kFp32, Precision::kFp32};
  return {plan.parameters().bytes(precision, roles), 3 * plan.parameters().bytes(full, trained),
          4 * plan.info().working_memory};
}

/// The loss of the classes of two pictures, and of the last tokens of a prompt about the first.
at::Tensor loss_of(const Model& model, Head& head, const std::vector<Request>& requests, const at::Tensor& labels,
                   bool multimodal) {
  std::vector<Image> pictures;
  for (const Request& request : requests) pictures.push_back(request.images.front());
  const at::Tensor loss =
      classification_loss(train_head(model, head, head_inputs(model, head, pictures)).logits, labels);
  if (!multimodal) return loss;
  const ModelInputs inputs = model.preprocess({requests.data(), 1});
  const std::int64_t length = inputs.input_ids.size(1);
  at::Tensor targets = at::full({1, length}, -100, at::kLong);
  targets.narrow(1, length - 1 - kAnswerTokens, kAnswerTokens)
      .copy_(inputs.input_ids.narrow(1, length - kAnswerTokens, kAnswerTokens));
  const ImageFeatures features = model.encode_images(inputs);
  const auto cache = model.new_cache(1, length);
  const TextOutput output = model.forward(inputs, &features, *cache);
  return loss + language_loss(output.last_hidden_state, targets.to(output.last_hidden_state.device()),
                              [&](const at::Tensor& hidden) { return model.lm_head(hidden); });
}

Check step(const Session& session, const Dataset& data, const VerifyOptions& options, const Need& need) {
  const ModelConfig& config = session.config().model;
  const std::uint64_t before = resident_memory();
  const auto model =
      session.create({.trainable = true, .roles = config.multimodal ? RoleSet::all() : head_roles(config)});
  Head head = make_head(model->info(), config);
  const bool multimodal = config.multimodal && model->tokenizer() != nullptr;
  std::vector<Request> requests;
  std::vector<std::int64_t> labels;
  for (std::size_t i = 0; i < 2; ++i) {
    const Sample& sample = data.samples[i % data.samples.size()];
    const std::string& asked = sample.question.empty() ? options.question : sample.question;
    requests.push_back({asked.empty() ? session.config().training.prompt : asked, {load_image(sample.image)}});
    labels.push_back(sample.label);
  }
  std::vector<TrainedTensor> tensors = trained_tensors(*model);
  const std::size_t of_model = tensors.size();
  for (TrainedTensor& tensor : trained_tensors(head)) tensors.push_back({"head." + tensor.name, tensor.value, {}});
  std::int64_t parameters = 0;
  for (const TrainedTensor& tensor : tensors) parameters += tensor.value.numel();
  Optimizer optimizer({.weight_decay = 0}, std::move(tensors));
  check_interrupt();
  const at::Tensor loss =
      loss_of(*model, head, requests, at::tensor(labels).to(head.tensors().front().tensor.device()), multimodal);
  loss.backward();
  const double norm = clip_gradients(optimizer.tensors(), 1);
  const bool finite = std::isfinite(loss.item<double>()) && std::isfinite(norm);
  if (finite) optimizer.step(kLearningRate);
  const auto grown = static_cast<double>(resident_memory()) - static_cast<double>(before);
  return {
      "", finite && norm > 0 ? CheckStatus::kPass : CheckStatus::kFail,
      fmt::format("AdamW step on 2 pictures{}: loss {:.4g}, gradient norm {:.4g} over {} parameters in {} tensors of "
                  "the model and {} of the head; {} more in memory (estimated {}, {} were free)",
                  multimodal ? " and a prompt" : "", loss.item<double>(), norm, parameters, of_model,
                  optimizer.tensors().size() - of_model, format_bytes(static_cast<std::uint64_t>(std::max(0.0, grown))),
                  format_bytes(need.total()),
                  format_bytes(available_memory() + static_cast<std::uint64_t>(std::max(0.0, grown))))};
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
