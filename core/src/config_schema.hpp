#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "vlmzoo/config.hpp"

namespace vlmzoo {

/// Full path of a key, and of another spelling of it.
struct Key {
  Key(const char* key_path, const char* key_synonym = nullptr) : path(key_path), synonym(key_synonym) {}
  const char* path;
  const char* synonym;
};

/// What a value has to be, beyond its type.
struct Between {  ///< low ≤ integer ≤ high
  std::int64_t low, high;
};
struct Interval {  ///< low ≤ number ≤ high, without an end that is open
  double low, high;
  bool low_open = false, high_open = false;
};
struct OneOf {
  std::string_view words;  ///< separated by " | "
};
struct Lengths {  ///< of a list
  std::size_t most;
};
struct NotEmpty {};    ///< text of at least one character
struct FilePath {};    ///< relative: resolved against the folder of its file when it exists there
struct Lowered {};     ///< lower-cased
struct DeviceName {};  ///< auto | cpu | cuda | cuda:N
struct ClassNames {};  ///< {0: cat, 1: dog}; its synonym the other way round

/// The one list of all keys that carry a value: calls `visit(Key, member, rules…)` for each, sections together.
/// Reading, writing and the search for misspelt keys all go through it.
template <class AnyConfig, class Visitor>
void visit_keys(AnyConfig& config, Visitor& visit) {
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  auto& model = config.model;
  visit("model.model_type", model.model_type, Lowered{});
  visit("model.pretrained_path", model.pretrained_path, FilePath{});
  visit("model.pretrained", model.pretrained);
  visit("model.seed", model.seed, Between{0, kAny});
  visit("model.device", model.device, DeviceName{});
  visit("model.precision", model.precision);
  visit("model.use_8bit", model.use_8bit);
  visit("model.multimodal", model.multimodal);
  visit("model.freeze_vision_encoder", model.freeze_vision_encoder);
  visit("model.freeze_language_model", model.freeze_language_model);
  visit("model.freeze_connector", model.freeze_connector);
  visit("model.head", model.head, FilePath{});
  visit("model.image_pipeline", model.image_pipeline, OneOf{"native | clip"});
  visit("model.max_tiles", model.max_tiles, Between{1, 64});
  visit("model.system_prompt", model.system_prompt);
  visit({"model.num_classes", "model.num_labels"}, model.num_classes, Between{2, 10000});
  visit({"model.id2label", "model.label2id"}, model.class_names, ClassNames{});
  auto& classifier = model.classifier;
  visit("model.classifier.hidden_dims", classifier.hidden_dims, Lengths{16}, Between{1, 65536});
  visit("model.classifier.dropout_rates", classifier.dropout_rates, Lengths{16}, Interval{0, 1, false, true});
  visit("model.classifier.batch_norm", classifier.batch_norm);
  visit("model.classifier.activation", classifier.activation, OneOf{"gelu | relu | silu | tanh"});
  visit("model.classifier.type", classifier.type, OneOf{"mlp | linear"});
  visit("model.classifier.features", classifier.features, OneOf{"vision | multimodal"});
  visit("model.classifier.pooling", classifier.pooling, OneOf{"model | mean | attention"});
  visit("model.classifier.prompt", classifier.prompt, NotEmpty{});

  auto& training = config.training;
  visit("training.epochs", training.epochs, Between{1, 1'000'000});
  visit("training.batch_size", training.batch_size, Between{1, 65536});
  visit("training.gradient_accumulation_steps", training.gradient_accumulation_steps, Between{1, 65536});
  visit("training.parallel_batches", training.parallel_batches);
  visit("training.warmup_steps", training.warmup_steps, Between{0, 1'000'000'000});
  visit("training.max_length", training.max_length, Between{1, 1'000'000});
  visit("training.learning_rate", training.learning_rate, Interval{0, 100, true});
  visit("training.weight_decay", training.weight_decay, Interval{0, 100});
  visit("training.gradient_clip", training.gradient_clip, Interval{0, 1e6});
  visit("training.max_steps", training.max_steps, Between{0, 1'000'000'000});
  visit("training.optimizer", training.optimizer, OneOf{"adamw | muon"});
  visit("training.lr_scheduler_type", training.lr_scheduler_type, OneOf{"cosine | linear | constant"});
  visit("training.ema_decay", training.ema_decay, Interval{0, 1, false, true});
  visit("training.label_smoothing", training.label_smoothing, Interval{0, 1, false, true});
  visit("training.balanced_classes", training.balanced_classes);
  visit("training.class_weights", training.class_weights, Lengths{10000}, Interval{0, 1e6, true});
  visit("training.classification_loss_weight", training.classification_loss_weight, Interval{0, 1e6});
  visit("training.language_loss_weight", training.language_loss_weight, Interval{0, 1e6});
  visit("training.language_loss_from", training.language_loss_from, Interval{0, 1});
  visit("training.region_loss_weight", training.region_loss_weight, Interval{0, 1e6});
  visit("training.prompt", training.prompt);
  visit("training.augmentations", training.augmentations, Lengths{8}, OneOf{"flip | rotate | brightness"});
  visit("training.cache_features", training.cache_features, OneOf{"auto | always | never"});
  visit("training.early_stopping_patience", training.early_stopping_patience, Between{0, 1'000'000});
  visit("training.max_eval_samples", training.max_eval_samples, Between{0, 1'000'000'000});
  visit("training.eval_steps", training.eval_steps, Between{0, 1'000'000'000});
  visit("training.save_steps", training.save_steps, Between{0, 1'000'000'000});
  visit("training.logging_steps", training.logging_steps, Between{1, 1'000'000'000});
  visit("training.seed", training.seed, Between{0, kAny});
  visit("training.fp16", training.fp16);
  visit("training.bf16", training.bf16);
  visit("training.flash_attention", training.flash_attention);
  visit("training.torch_compile", training.torch_compile);
  visit("training.memory_efficient", training.memory_efficient);
  visit("training.low_cpu_mem_usage", training.low_cpu_mem_usage);

  auto& generation = config.generation;
  visit({"generation.max_new_tokens", "generation.max_length"}, generation.max_new_tokens, Between{1, 1'000'000});
  visit("generation.temperature", generation.temperature, Interval{0, 100});
  visit("generation.top_k", generation.top_k, Between{0, 1'000'000'000});
  visit("generation.top_p", generation.top_p, Interval{0, 1, true});
  visit("generation.repetition_penalty", generation.repetition_penalty, Interval{0, 100, true});
  visit("generation.seed", generation.seed, Between{0, kAny});
  visit("generation.stop", generation.stop, Lengths{64}, NotEmpty{});
}

/// Keys that only a message answers.
inline constexpr const char* kTrustRemoteCode = "model.trust_remote_code";
inline constexpr const char* kExtends = "extends";

}  // namespace vlmzoo
