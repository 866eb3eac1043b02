#include "training/setup.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "evaluation/predictions.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {

namespace {

bool has_answer(const Dataset& data) {
  return std::ranges::any_of(data.samples, [](const Sample& sample) { return !sample.answer.empty(); });
}

}  // namespace

std::string TrainingData::fingerprint() const {
  std::string text;
  for (const Dataset* data : {&train, &validation}) {
    for (const Sample& sample : data->samples) {
      text += fmt::format("{}\n{}\n{}\n{}\n", sample.id, sample.label, sample.question, sample.answer);
    }
  }
  return sha256(std::as_bytes(std::span(text)));
}

TrainingData load_training_data(const Session& session, const TrainingDataRequest& wanted) {
  DataRequest request;
  request.path = wanted.path;
  request.split = "train";
  request.limit = wanted.limit;
  request.skip_bad = wanted.skip_bad;
  request = with_classes(std::move(request), session);
  if (request.class_names.empty() && !session.config().origins.contains("model.num_classes")) request.num_classes = 0;
  TrainingData data{load_dataset(request), {}};
  check_classes(data.train, request);  // of those that the limit leaves
  if (data.train.samples.front().split.empty()) {
    warn("the data has no splits, so nothing is left to validate on: the last step's weights are kept");
    return data;
  }
  request.class_names = data.train.class_names;
  request.split = "all";
  request.limit = 0;
  data.validation = load_dataset(request);
  std::vector<Sample>& samples = data.validation.samples;
  std::erase_if(samples, [](const Sample& sample) { return sample.split != "val"; });
  if (samples.empty()) warn("the data has no validation split: the last step's weights are kept");
  for (const std::int64_t most : {wanted.limit, session.config().training.max_eval_samples}) {
    if (most > 0 && std::ssize(samples) > most) samples.resize(static_cast<std::size_t>(most));
  }
  return data;
}

TrainingMode training_mode(const Config& config, const TrainingData& data, const Head& head) {
  const TrainingConfig& training = config.training;
  const RoleSet roles = trainable_roles(config.model);
  const bool weighed = training.language_loss_weight > 0, has_answers = has_answer(data.train);
  TrainingMode mode;
  mode.answers = weighed && has_answers && config.model.multimodal && roles.any();
  mode.regions = training.region_loss_weight > 0;
  if (training.classification_loss_weight == 0 && !mode.answers && !mode.regions) {
    throw Error(ErrorCode::kConfig,
                "there is no loss to train with: training.classification_loss_weight is 0, and so is "
                "training.region_loss_weight; the loss of answers needs data with answers, a role that isn't frozen, "
                "and a training.language_loss_weight above 0");
  }
  const bool reached = mode.answers || (head.needs_language() && training.classification_loss_weight > 0);
  mode.roles = {roles.vision, roles.connector && reached, roles.language && reached};
  if (!reached && (roles.language || config.model.freeze_connector == false)) {
    info(fmt::format("no loss reaches connector and language model ({}), so they aren't trained, nor loaded",
                     weighed ? "the data has no answers" : "training.language_loss_weight is 0"));
  }
  if (mode.answers && !data.validation.samples.empty() && !has_answer(data.validation)) {
    warn("the validation split has no answers: what is kept is chosen by its classes alone");
  }
  if (mode.regions && !roles.vision) {
    throw Error(ErrorCode::kConfig,
                "training.region_loss_weight teaches the vision encoder, which is frozen; set "
                "model.freeze_vision_encoder=false, or leave the weight at 0");
  }
  const char* obstacle = mode.roles.vision                 ? "the vision encoder is trained"
                         : mode.roles.connector            ? "the connector is trained"
                         : mode.roles.language             ? "the language model is trained"
                         : !training.augmentations.empty() ? "training.augmentations changes the pictures"
                         : !head.poolable()                ? "the head's pooling is trained"
                                                           : nullptr;
  if (training.cache_features == "always" && obstacle != nullptr) {
    throw Error(ErrorCode::kConfig, fmt::format("training.cache_features is always, but {}: cached features would be "
                                                "wrong",
                                                obstacle));
  }
  mode.cached = obstacle == nullptr && training.cache_features != "never";
  return mode;
}

TrainingConfig settled_training(const Config& config) {
  TrainingConfig training = config.training;
  if (const at::Device device = resolve_device(config.model.device); !device.is_cpu()) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("model.device is {}: training runs on the processor only; set model.device=cpu", device.str()));
  }
  if (training.fp16) {
    throw Error(ErrorCode::kUnsupported, "training.fp16 would need loss scaling, which isn't there; use training.bf16");
  }
  const CpuFeatures& cpu = cpu_features();
  if (training.bf16 && !cpu.avx512_bf16 && !cpu.amx_bf16) {
    warn_once("training.bf16: this processor has neither avx512_bf16 nor AMX, so it computes in fp32");
    training.bf16 = false;
  }
  if (training.flash_attention) info("training.flash_attention: LibTorch chooses the attention kernel by itself");
  if (training.low_cpu_mem_usage) info("training.low_cpu_mem_usage: weights are always read one by one");
  return training;
}

ClassificationLoss classification_loss(const TrainingConfig& training, const Dataset& train) {
  ClassificationLoss loss{training.label_smoothing, training.class_weights};
  if (training.balanced_classes) {
    if (!loss.class_weights.empty()) {
      throw Error(ErrorCode::kConfig,
                  "training.balanced_classes and training.class_weights both weigh the classes; "
                  "keep one of them");
    }
    loss.class_weights = balanced_class_weights(train.class_counts());
  }
  const auto classes = std::ssize(train.class_names);
  if (!loss.class_weights.empty() && std::ssize(loss.class_weights) != classes) {
    throw Error(ErrorCode::kConfig, fmt::format("training.class_weights has {} entries for {} classes",
                                                loss.class_weights.size(), classes));
  }
  return loss;
}

}  // namespace vlmzoo::app
