#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "error_of.hpp"
#include "vlmzoo/heads.hpp"

/// What the tests of heads share: the fixed-formula head of tests/reference/head_formula.py and a model of nothing but
/// an lm_head.
namespace vlmzoo::test {

inline double formula(std::int64_t stream, std::int64_t index) {
  return static_cast<double>((index * 7919 + stream * 104729 + 17) % 1009) / 1009 - 0.5;
}

inline at::Tensor formula_tensor(std::int64_t stream, at::IntArrayRef shape, double scale, double shift) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.mutable_data_ptr<float>()[i] = static_cast<float>(scale * formula(stream, i) + shift);
  }
  return tensor;
}

inline HeadConfig toy_config(const std::string& activation = "gelu", bool batch_norm = true) {
  HeadConfig config;
  config.model_type = "toy";
  config.num_features = 12;
  config.text_hidden_size = 10;
  config.classifier = {{8, 6}, {0.2, 0.1}, batch_norm, activation};
  config.class_names = {"none", "one", "several"};
  return config;
}

/// The formula's values in the tensors of a fresh head, whose order is the file's.
inline Head formula_head(const HeadConfig& config) {
  Head head = fresh_head(config, 0);
  for (std::size_t stream = 0; stream < head.tensors().size(); ++stream) {
    const NamedTensor& named = head.tensors()[stream];
    const bool positive = named.name.ends_with("running_var") || named.name.ends_with("norm.weight");
    at::Tensor target = named.tensor;
    if (named.name.ends_with("num_batches_tracked")) {
      target.fill_(7);
    } else {
      target.copy_(formula_tensor(static_cast<std::int64_t>(stream), target.sizes(), 1, positive ? 1 : 0));
    }
  }
  return head;
}

/// Four pictures of 2, 1, 3 and 1 tiles with 5 tokens each; the last two tokens of odd tiles are padding.
inline ImageFeatures formula_features() {
  ImageFeatures features;
  features.last_hidden_state = formula_tensor(99, {7, 5, 12}, 4, 0);
  features.valid = at::ones({7, 5}, at::kBool);
  for (const std::int64_t row : {1, 3, 5}) features.valid[row].narrow(0, 3, 2).fill_(false);
  features.tiles_per_image = {2, 1, 3, 1};
  return features;
}

inline at::Tensor tensor_of(const Head& head, const std::string& name) {
  for (const NamedTensor& named : head.tensors()) {
    if (named.name == name) return named.tensor;
  }
  FAIL("no tensor " << name);
  return {};
}

/// A model that is nothing but its lm_head.
class ToyModel : public Model {
 public:
  explicit ToyModel(std::int64_t width = 10) : lm_head_(formula_tensor(5, {20, width}, 1, 0)) {
    info_.model_type = "toy";
    info_.num_features = 12;
    info_.text_hidden_size = width;
    info_.vocab_size = 20;
  }
  const ModelInfo& info() const override { return info_; }
  const Parameters& parameters() const override { return parameters_; }
  ModelInputs preprocess(std::span<const Request>, bool) const override { return {}; }
  ImageFeatures encode_images(const ModelInputs&) const override { return {}; }
  std::unique_ptr<KvCache> new_cache(std::int64_t, std::int64_t) const override { return nullptr; }
  TextOutput forward(const ModelInputs&, const ImageFeatures*, KvCache&, std::int64_t) const override { return {}; }
  at::Tensor lm_head(const at::Tensor& hidden) const override { return at::linear(hidden, lm_head_); }
  const Tokenizer* tokenizer() const override { return nullptr; }

 private:
  ModelInfo info_;
  Parameters parameters_;
  at::Tensor lm_head_;
};

}  // namespace vlmzoo::test
