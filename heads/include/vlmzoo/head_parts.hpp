#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/model.hpp"

/// The pieces that heads.hpp puts together; its symbols and its words about threads and gradients hold here too.
namespace vlmzoo {

/// [I, C] fp32: `pooler_output` where the model has one, else the mean of `last_hidden_state` over the valid tokens of
/// all tiles of each picture. Error: kMismatch for shapes that don't fit, or a picture without a valid token.
at::Tensor pool_image_features(const ImageFeatures& features);
/// The mean also where the model has a pooler.
at::Tensor mean_pool(const ImageFeatures& features);
/// Σ softmax(LayerNorm(x)·query / sqrt(C)) x over the same tokens x, for a learned query [C]; zeros give the mean.
at::Tensor attention_pool(const ImageFeatures& features, const at::Tensor& query);
/// [B, H]: the hidden state of the last position of each prompt, on whichever side the padding is. `inputs` are those
/// that gave `text`. Error: kMismatch.
at::Tensor last_positions(const ModelInputs& inputs, const TextOutput& text);

/// Softmax of logits / temperature over the last dimension, in fp32.
at::Tensor probabilities(const at::Tensor& logits, double temperature = 1);

/// One tensor of a head, by its name in the file. `tensor` is a handle: writing through it changes the head.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  bool trainable = true;  ///< false: a buffer of batch norm
};

/// Hidden layers (Linear -> BatchNorm1d, if asked for -> activation -> Dropout), then a last Linear.
class ClassificationHead {
 public:
  ClassificationHead() = default;
  /// `tensors` are those of its layers, in the file's order.
  ClassificationHead(const ClassifierConfig& config, std::span<const NamedTensor> tensors);

  at::Tensor forward(const at::Tensor& x) const;  ///< [I, in] -> [I, K]
  /// With dropout (ATen's default generator) and batch statistics, which move the running ones. Error: kConfig for a
  /// batch of one under batch norm.
  at::Tensor forward_training(const at::Tensor& x);

 private:
  struct Layer {
    at::Tensor weight, bias;
    at::Tensor norm_weight, norm_bias, running_mean, running_var, num_batches_tracked;  // undefined without batch norm
    double dropout = 0;
  };
  at::Tensor run(at::Tensor x, bool training) const;

  std::vector<Layer> layers_;
  at::Tensor out_weight_, out_bias_;
  std::string activation_;
};

/// Linear(H, V) on final hidden states. It is the model's own lm_head until it has weights of its own.
class ResponseGenerator {
 public:
  ResponseGenerator() = default;                          ///< shares lm_head
  ResponseGenerator(at::Tensor weight, at::Tensor bias);  ///< fp32 [V, H] and [V]

  bool shared() const { return !weight_.defined(); }
  at::Tensor forward(const Model& model, const at::Tensor& hidden) const;  ///< [..., H] -> fp32 [..., V]

 private:
  at::Tensor weight_, bias_;
};

}  // namespace vlmzoo
