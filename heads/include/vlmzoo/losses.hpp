#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

/// Losses whose micro-batches add up to the gradient of one batch. Settings out of range are Error(kConfig), tensors
/// that don't fit Error(kMismatch).
namespace vlmzoo {

struct ClassificationLoss {
  double label_smoothing = 0;         ///< in [0, 1): this part of the target is spread evenly over all classes
  std::vector<double> class_weights;  ///< K positive numbers; empty: all 1
};

/// What makes rare classes count as much as frequent ones: n / (K · pictures of the class) (scikit-learn's "balanced").
/// Error: kMismatch for a class without pictures.
std::vector<double> balanced_class_weights(std::span<const std::int64_t> pictures_per_class);

/// Σ class_weights[label] over int64 labels [I]: what their batch counts for.
double label_weight(const at::Tensor& labels, const ClassificationLoss& loss);

/// Cross-entropy of logits [I, K] and int64 labels [I], as an fp32 scalar: the sum over pictures / `normalizer`. 0
/// stands for label_weight of these labels: PyTorch's mean. Micro-batches normalized by label_weight of all of them
/// together add up to the gradient of one batch. Error: kMismatch also for a label outside [0, K).
at::Tensor classification_loss(const at::Tensor& logits, const at::Tensor& labels, const ClassificationLoss& loss = {},
                               double normalizer = 0);

struct LanguageLoss {
  double label_smoothing = 0;
  std::int64_t ignore_index = -100;  ///< a target that doesn't count
  std::int64_t rows_at_once = 128;   ///< of [rows, V] logits in fp32 that exist at a time
};

/// How many targets count.
std::int64_t target_count(const at::Tensor& targets, const LanguageLoss& loss = {});

/// Next-token cross-entropy through `lm_head` ([n, H] -> [n, V], Model::lm_head), as an fp32 scalar: the sum over
/// targets that count / `normalizer`; 0 stands for their number. `hidden` is [..., H], `targets` int64 [...]: at each
/// position the token that should follow. lm_head sees only rows that count, at most `rows_at_once` of them: where
/// there are more, logits are made again in backward (under the same autocast), so [B, L, V] never exists, and the
/// gradients of lm_head's leaves are added to them by the way, whatever inputs the caller asks gradients of. Without
/// any target that counts the loss is 0, and so are its gradients.
at::Tensor language_loss(const at::Tensor& hidden, const at::Tensor& targets,
                         std::function<at::Tensor(const at::Tensor&)> lm_head, const LanguageLoss& loss = {},
                         double normalizer = 0);

}  // namespace vlmzoo
