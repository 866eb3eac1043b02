#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/head_parts.hpp"
#include "vlmzoo/model.hpp"

/// Heads on a model's outputs, the same for every model. They see ImageFeatures and TextOutput only.
///   ImageFeatures -> pool [I, C] -> vision_projection [I, H] = embeddings -> ClassificationHead [I, K] = logits
///   TextOutput -> last position [B, H] = multimodal_embeddings -> ResponseGenerator [B, V] = response_logits
/// I pictures, B prompts, C width of the vision tower, H width of the text model, K classes, V vocabulary. All in fp32.
/// ClassifierConfig makes variants of the first line: pooled by attention, classified by one Linear, or by the second
/// line's multimodal_embeddings (then I = B). run_head.hpp runs any of them. Names, file format and the same module in
/// PyTorch: docs/heads.md. Const methods may run concurrently; a head in training belongs to one thread (forward passes
/// of one without dropout and batch norm may run concurrently). Nothing detaches: gradients reach the features and
/// every trainable tensor.
namespace vlmzoo {

/// What a head is made for and of; stored in its file.
struct HeadConfig {
  std::string model_type;             ///< canonical, of the backbone
  std::int64_t num_features = 0;      ///< C
  std::int64_t text_hidden_size = 0;  ///< H
  std::int64_t vocab_size = 0;        ///< V when the response generator has weights of its own; 0: it shares lm_head
  ClassifierConfig classifier;
  std::vector<std::string> class_names;  ///< K names, never empty
  double temperature = 1;                ///< of calibrated probabilities(), fitted on validation data after training
};

/// The head that `config` asks for on the model `info`; classes without names are "0", "1", …. Error: kConfig.
HeadConfig head_config(const ModelInfo& info, const ModelConfig& config);

struct HeadOutput {
  at::Tensor logits;                 ///< fp32 [I, K]
  at::Tensor embeddings;             ///< fp32 [I, H], what the classifier sees: output of vision_projection, or
                                     ///< multimodal_embeddings; under `type: linear` the features themselves
  at::Tensor response_logits;        ///< fp32 [B, V]; undefined without text
  at::Tensor multimodal_embeddings;  ///< fp32 [B, H]; undefined without text
};

/// All heads of one model. Copies share their tensors.
class Head {
 public:
  /// Errors: kConfig for a config that makes no head, kMismatch with every tensor that is not the config's.
  Head(HeadConfig config, std::vector<NamedTensor> tensors);

  const HeadConfig& config() const { return config_; }
  std::int64_t num_classes() const { return static_cast<std::int64_t>(config_.class_names.size()); }
  /// In the file's order, buffers included. Training sets requires_grad on the trainable ones and steps them in place.
  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  const ResponseGenerator& response_generator() const { return response_generator_; }

  /// What it is a function of: multimodal features, for which the model has to be loaded whole, or those of vision.
  bool needs_language() const { return config_.classifier.features == "multimodal"; }
  /// Whether one vector per picture is enough for it, as a cache may hold. Not so for a pooling that is learned.
  bool poolable() const { return config_.classifier.pooling != "attention"; }
  /// W, the width of these vectors: H for multimodal features, else C.
  std::int64_t pooled_width() const { return needs_language() ? config_.text_hidden_size : config_.num_features; }
  /// Says how pooled features are made, for the key of a cache: heads with the same one may share it.
  std::string pooled_name() const;

  /// [I, W] fp32 of vision features. Errors: kUnsupported unless poolable(), or for a head that needs_language().
  at::Tensor pool(const ImageFeatures& features) const;

  /// Inference: fills `logits` and `embeddings`. Errors: kMismatch when the features aren't num_features wide,
  /// kUnsupported for a head that needs_language().
  HeadOutput forward(const ImageFeatures& features) const;
  /// The same from pooled features [I, W]. Errors: kMismatch, and kUnsupported unless poolable().
  HeadOutput forward_pooled(const at::Tensor& pooled) const;
  /// Both with dropout and batch statistics. Error: also kConfig for a batch of one under batch norm.
  HeadOutput forward_training(const ImageFeatures& features);
  HeadOutput forward_training(const at::Tensor& pooled);

  /// The plan's forward with text: all four outputs. `features` may be null; then a head on vision leaves the first two
  /// undefined. `inputs` are those that gave `text`, for a head that needs_language() with its own prompt. Error:
  /// kMismatch.
  HeadOutput forward_multimodal(const Model& model, const ModelInputs& inputs, const ImageFeatures* features,
                                const TextOutput& text) const;

  /// The same head with its tensors on `device` (shared where they are there already).
  Head to(at::Device device) const;
  /// The same head whose response generator has weights of its own, copied from the model's lm_head (bias 0).
  Head with_own_response_generator(const Model& model) const;

 private:
  at::Tensor pool_any(const ImageFeatures& features) const;
  at::Tensor embed(const at::Tensor& pooled) const;
  HeadOutput classify(const at::Tensor& pooled) const;
  HeadOutput classify_training(const at::Tensor& pooled);
  void require_vision() const;
  void require_poolable() const;

  HeadConfig config_;
  std::vector<NamedTensor> tensors_;
  at::Tensor pooling_query_;                        // undefined unless attention pools
  at::Tensor projection_weight_, projection_bias_;  // undefined where the classifier sees the features themselves
  ClassificationHead classifier_;
  ResponseGenerator response_generator_;
};

/// Seeded values, the same on every machine: Linear uniform in ±1/sqrt(inputs) as in PyTorch, batch norm 1, 0, 0, 1,
/// the query of attention pooling 0.
/// Errors: kConfig, kMemory.
Head fresh_head(const HeadConfig& config, std::int64_t seed);

/// A head file is safetensors with the HeadConfig in its metadata. Errors: kNotFound, kIo.
void save_head(const std::filesystem::path& path, const Head& head);

/// Errors: kNotFound, kCorrupt (no head file, or broken), kUnsupported (a newer format).
HeadConfig read_head_config(const std::filesystem::path& path);

/// Reads a head and checks it against model and configuration. Class names and each key of the classifier that `config`
/// leaves at its default are the file's. Errors: also kMismatch, naming both sides, or the tensors that don't fit.
Head load_head(const std::filesystem::path& path, const ModelInfo& info, const ModelConfig& config);

/// The head of `config.head`, or a fresh one from `config.seed`, on the device of `config`. `fresh` says which.
Head make_head(const ModelInfo& info, const ModelConfig& config, bool* fresh = nullptr);

}  // namespace vlmzoo
