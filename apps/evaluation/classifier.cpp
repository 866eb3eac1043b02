#include "evaluation/classifier.hpp"

#include <ATen/core/Tensor.h>

#include <utility>

#include "clock.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/run_head.hpp"

namespace vlmzoo::app {
namespace {

double milliseconds_since(Clock::time_point start) { return 1e3 * seconds_since(start); }

std::vector<double> finite_logits(const at::Tensor& logits) {
  const at::Tensor values = logits.to(at::kCPU, at::kDouble).reshape({-1}).contiguous();
  if (!values.isfinite().all().item<bool>()) {
    throw Error(ErrorCode::kInternal,
                "the logits of the classes are not finite; the weights may be damaged, or a precision too narrow for "
                "them (try --precision fp32)");
  }
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

}  // namespace

Classifier::Classifier(const Session& session, bool answers)
    : session_(session),
      roles_(answers ? RoleSet::all() : head_roles(session.config().model)),
      plan_(session.create({.plan_only = true, .roles = roles_})),
      head_(make_head(plan_->info(), session.config().model, &fresh_)),
      generation_(session.config().generation) {
  // Planning takes any roles; that the language model is switched off is said before anything is computed.
  if (roles_.language && !session.config().model.multimodal) session.create({.roles = roles_});
  generation_.temperature = 0;
}

void Classifier::load() {
  if (model_) return;
  const auto start = Clock::now();
  model_ = session_.create({.roles = roles_});
  load_seconds_ = seconds_since(start);
  // The first run sets up kernels and memory; its time is nobody's latency.
  Request request;
  const std::int64_t side = model_->info().image_size;
  request.images.push_back({side, side, std::vector<std::uint8_t>(static_cast<std::size_t>(side * side * 3), 128)});
  classify(request);
}

std::optional<PictureOutputs> Classifier::run(Image image, const std::string* question) const {
  Request request;
  request.images.push_back(std::move(image));
  if (question == nullptr) return classify(request);
  request.text = *question;
  return ask(request);
}

PictureOutputs Classifier::classify(const Request& request) const {
  const auto start = Clock::now();
  const ModelInputs inputs = head_inputs(*model_, head_, request.images);
  PictureOutputs outputs;
  outputs.logits = finite_logits(run_head(*model_, head_, inputs).logits);
  outputs.latency_ms = milliseconds_since(start);
  return outputs;
}

std::optional<PictureOutputs> Classifier::ask(const Request& request) const {
  const auto start = Clock::now();
  const ModelInputs inputs = model_->preprocess({&request, 1});
  const double before = milliseconds_since(start);
  PictureOutputs outputs;
  double head_ms = 0;
  const auto on_prefill = [&](const ImageFeatures* features, const TextOutput&) {
    const auto head_start = Clock::now();
    // A head with a prompt of its own doesn't see the question.
    const ModelInputs own = head_.needs_language() ? head_inputs(*model_, head_, request.images) : ModelInputs{};
    outputs.logits = finite_logits(run_head(*model_, head_, own, features).logits);
    head_ms = milliseconds_since(head_start);
  };
  GenerationTimes times;
  const Answer answer = generate(*model_, inputs, generation_, {}, &times, on_prefill).at(0);
  if (answer.finish == FinishReason::kInterrupted) return std::nullopt;
  outputs.answer = answer.text;
  outputs.answer_ms = milliseconds_since(start) - head_ms;
  outputs.latency_ms = before + 1e3 * times.vision + head_ms;  // the class doesn't wait for the answer
  return outputs;
}

}  // namespace vlmzoo::app
