#include <ATen/ops/batch_norm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/linear.h>

#include <utility>

#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/nn/layers.hpp"

namespace vlmzoo {

ClassificationHead::ClassificationHead(const ClassifierConfig& config, std::span<const NamedTensor> tensors)
    : activation_(config.activation) {
  auto next = tensors.begin();
  const auto take = [&]() -> const at::Tensor& { return (next++)->tensor; };
  for (const double rate : config.dropout_rates) {
    Layer layer;
    layer.dropout = rate;
    layer.weight = take();
    layer.bias = take();
    if (config.batch_norm) {
      layer.norm_weight = take();
      layer.norm_bias = take();
      layer.running_mean = take();
      layer.running_var = take();
      layer.num_batches_tracked = take();
    }
    layers_.push_back(std::move(layer));
  }
  out_weight_ = take();
  out_bias_ = take();
}

at::Tensor ClassificationHead::run(at::Tensor x, bool training) const {
  const Activation activation = parse_activation(activation_, "classifier.activation");
  for (const Layer& layer : layers_) {
    x = at::linear(x, layer.weight, layer.bias);
    if (layer.norm_weight.defined()) {
      if (training) at::Tensor(layer.num_batches_tracked).add_(1);
      // PyTorch's defaults, on which docs/heads.md relies.
      x = at::batch_norm(x, layer.norm_weight, layer.norm_bias, layer.running_mean, layer.running_var, training,
                         /*momentum=*/0.1, /*eps=*/1e-5, /*cudnn_enabled=*/true);
    }
    x = activate(x, activation);
    if (training && layer.dropout > 0) x = at::dropout(x, layer.dropout, /*train=*/true);
  }
  return at::linear(x, out_weight_, out_bias_);
}

at::Tensor ClassificationHead::forward(const at::Tensor& x) const { return run(x, /*training=*/false); }

at::Tensor ClassificationHead::forward_training(const at::Tensor& x) {
  const bool batch_norm = !layers_.empty() && layers_.front().norm_weight.defined();
  if (batch_norm && x.size(0) < 2) {
    throw Error(ErrorCode::kConfig, "batch norm needs at least 2 pictures in a training batch, this one has " +
                                        std::to_string(x.size(0)) +
                                        "; raise training.batch_size or set model.classifier.batch_norm: false");
  }
  return run(x, /*training=*/true);
}

}  // namespace vlmzoo
