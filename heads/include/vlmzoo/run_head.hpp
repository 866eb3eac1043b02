#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "vlmzoo/heads.hpp"

/// From pictures to a head's output, for every kind of head: callers don't ask which. I pictures give I rows, each of
/// its picture alone. Errors: those of Model::preprocess(), and of Model::forward() where a head that needs_language()
/// meets a model that was loaded without.
namespace vlmzoo {

/// What of the model has to be loaded for the head of `config` (its file's, where it names one). Errors: those of
/// read_head_config().
RoleSet head_roles(const ModelConfig& config);

/// The model's inputs for pictures: their pixels, and the head's prompt about each one where it has one. Pure: may run
/// on any thread, ahead of time.
ModelInputs head_inputs(const Model& model, const Head& head, std::span<const Image> pictures);

/// The head's pooled features [I, W] of head_inputs(), in fp32. `features`, where they are there already, are the same
/// pictures'. Gradients pass. Error: kUnsupported unless Head::poolable().
at::Tensor pooled_features(const Model& model, const Head& head, const ModelInputs& inputs,
                           const ImageFeatures* features = nullptr);

/// `logits` and `embeddings` (and `multimodal_embeddings`, for a head on these) of head_inputs().
HeadOutput run_head(const Model& model, const Head& head, const ModelInputs& inputs,
                    const ImageFeatures* features = nullptr);
/// Of the request's pictures. Its text isn't looked at: a head has a prompt of its own or none.
HeadOutput run_head(const Model& model, const Head& head, const Request& request);

/// The same with dropout and batch statistics. Error: also kConfig for a batch of one under batch norm.
HeadOutput train_head(const Model& model, Head& head, const ModelInputs& inputs,
                      const ImageFeatures* features = nullptr);

}  // namespace vlmzoo
