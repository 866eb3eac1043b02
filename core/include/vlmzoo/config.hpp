#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// `model_type` when a configuration names none.
inline constexpr const char* kDefaultModelType = "internvl";

enum class Precision { kAuto, kFp32, kBf16, kFp16, kInt8 };
VLMZOO_API std::string to_string(Precision precision);
VLMZOO_API Precision parse_precision(const std::string& text, const std::string& where);  ///< Error: kConfig

/// `precision: bf16`, or `precision: {vision: fp32, connector: fp32, language: int8}`.
struct RolePrecision {
  Precision vision = Precision::kAuto, connector = Precision::kAuto, language = Precision::kAuto;
};

struct ClassifierConfig {
  std::vector<std::int64_t> hidden_dims = {768, 256};
  std::vector<double> dropout_rates = {0.2, 0.1};  ///< as many as hidden_dims
  bool batch_norm = true;
  std::string activation = "gelu";  ///< gelu | relu | silu | tanh
  std::string type = "mlp";         ///< mlp | linear: one Linear right on the features, none of the layers above
  std::string features = "vision";  ///< vision | multimodal: the last hidden state of the answer position of `prompt`
  std::string pooling = "model";    ///< of vision features: model (its pooler's output, else mean) | mean | attention
  std::string prompt = "What does this picture show?";  ///< neutral, as Request::text; of multimodal features
};

struct ModelConfig {
  std::string model_type;  ///< lower case; empty: kDefaultModelType
  std::string pretrained_path;
  bool pretrained = true;       ///< false: same architecture from config.json, seeded random weights
  std::int64_t seed = 0;        ///< of `pretrained: false` and of a fresh head
  std::string device = "auto";  ///< auto | cpu | cuda | cuda:N
  RolePrecision precision;
  bool use_8bit = false;  ///< int8 for connector and language, vision left alone
  bool multimodal = true;
  bool freeze_vision_encoder = true;  ///< default: the value of `multimodal`
  bool freeze_language_model = false;
  std::optional<bool> freeze_connector;  ///< default: true where both others are frozen
  std::string head;  ///< a head file, `${model.pretrained_path}` resolved; empty: freshly initialised
  std::string image_pipeline = "native";     ///< native | clip
  std::optional<std::int64_t> max_tiles;     ///< default: the checkpoint's
  std::optional<std::string> system_prompt;  ///< default: the model's own; "" removes it
  std::int64_t num_classes = 3;              ///< synonym num_labels
  std::vector<std::string> class_names;      ///< from id2label or label2id; empty: "0", "1", …
  ClassifierConfig classifier;
};

struct TrainingConfig {
  std::int64_t epochs = 15, batch_size = 2, gradient_accumulation_steps = 8, warmup_steps = 200;
  std::int64_t max_length = 128;  ///< tokens of question and answer; the question is cut
  std::int64_t max_steps = 0;     ///< optimizer steps that end the run; 0: all epochs
  double learning_rate = 5.0e-5, weight_decay = 1.0e-4;
  double gradient_clip = 1.0;                ///< largest norm of all gradients; 0: off
  std::string optimizer = "adamw";           ///< adamw | muon
  std::string lr_scheduler_type = "cosine";  ///< cosine | linear | constant, behind the warm-up
  double ema_decay = 0;  ///< moving average of the weights, which is what is evaluated and saved; 0: off
  double label_smoothing = 0;
  bool balanced_classes = false;      ///< rare classes count as much as frequent ones
  std::vector<double> class_weights;  ///< one per class; empty: all 1
  double classification_loss_weight = 1, language_loss_weight = 1;
  double language_loss_from = 0;  ///< part of the run, 0 to 1, before which the language loss doesn't count
  double region_loss_weight = 0;  ///< of an extra loss on where things lie (regions.jsonl); its layer is thrown away
  std::string prompt = "How many receipts are there?";  ///< question where the data has answers but no questions
  std::vector<std::string> augmentations;               ///< flip | rotate | brightness
  std::string cache_features = "auto";                  ///< auto | always | never: vision runs once per picture
  std::int64_t early_stopping_patience = 0;     ///< evaluations in a row without improvement that end the run; 0: off
  std::int64_t max_eval_samples = 0;            ///< of the validation split; 0: all
  std::int64_t eval_steps = 0, save_steps = 0;  ///< steps between evaluations and checkpoints; 0: each epoch
  std::int64_t logging_steps = 10;
  std::int64_t seed = 0;          ///< of order, augmentation and dropout
  bool parallel_batches = false;  ///< a step's batches are computed at once, each on one thread
  bool fp16 = false, bf16 = false, flash_attention = false, torch_compile = false, memory_efficient = false,
       low_cpu_mem_usage = false;
};

struct GenerationConfig {
  std::int64_t max_new_tokens = 50;  ///< synonym max_length
  double temperature = 0.7;          ///< 0: greedy
  std::int64_t top_k = 50;           ///< 0: off
  double top_p = 0.9;                ///< 1: off
  double repetition_penalty = 1.0;
  std::int64_t seed = 0;
  std::vector<std::string> stop;  ///< strings that end an answer, not part of it
};

struct Config {
  ModelConfig model;
  TrainingConfig training;
  GenerationConfig generation;
  std::string resolved;                        ///< YAML of every key with its value, to store beside a result
  std::map<std::string, std::string> origins;  ///< "model.model_type" -> "configs/a.yaml:3", for messages
};

/// Reads a YAML configuration. `extends: base.yaml` (relative to the file; at most 8 deep, no cycle) is read first and
/// overridden key by key; then `overrides` ("key.path=value", value in YAML). Relative `pretrained_path` and `head`
/// resolve against the file that holds them, when that exists there. Refused: unknown keys (nearest known one named),
/// wrong types, values out of range, anchors and aliases, duplicate keys, depth > 32, files > 1 MB. Every message
/// begins with file:line. Errors: kNotFound, kConfig.
VLMZOO_API Config load_config(const std::filesystem::path& path, std::span<const std::string> overrides = {});

/// The same without a file: defaults, then `overrides`; relative paths resolve against the working directory.
VLMZOO_API Config default_config(std::span<const std::string> overrides = {});

}  // namespace vlmzoo
