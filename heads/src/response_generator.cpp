#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {

ResponseGenerator::ResponseGenerator(at::Tensor weight, at::Tensor bias)
    : weight_(std::move(weight)), bias_(std::move(bias)) {}

at::Tensor ResponseGenerator::forward(const Model& model, const at::Tensor& hidden) const {
  if (shared()) return model.lm_head(hidden);
  return at::linear(hidden.to(at::kFloat), weight_, bias_);
}

Head Head::with_own_response_generator(const Model& model) const {
  HeadConfig config = config_;
  config.vocab_size = model.info().vocab_size;
  check_head_config(config, "response generator", ErrorCode::kConfig);
  check_head_memory(head_layout(config));

  // The adapter shows its lm_head only as a function, whatever kernel it is; unit vectors give its columns.
  const at::TensorOptions options = tensors_.front().tensor.options().requires_grad(false);
  at::Tensor weight = at::empty({config.vocab_size, config.text_hidden_size}, options);
  constexpr std::int64_t kColumns = 64;
  for (std::int64_t first = 0; first < config.text_hidden_size; first += kColumns) {
    const std::int64_t count = std::min(kColumns, config.text_hidden_size - first);
    const at::Tensor units = at::eye(config.text_hidden_size, options).narrow(0, first, count);
    const at::Tensor columns = model.lm_head(units);
    if (columns.dim() != 2 || columns.size(1) != config.vocab_size) {
      throw Error(ErrorCode::kMismatch, fmt::format("the model's lm_head gives {} logits; its vocabulary has {}",
                                                    columns.size(-1), config.vocab_size));
    }
    weight.narrow(1, first, count).copy_(columns.detach().t());
  }

  std::vector<NamedTensor> tensors = tensors_;
  std::erase_if(tensors, [](const NamedTensor& t) { return t.name.starts_with("response_generator."); });
  tensors.push_back({"response_generator.weight", weight, true});
  tensors.push_back({"response_generator.bias", at::zeros({config.vocab_size}, options), true});
  return Head(std::move(config), std::move(tensors));
}

}  // namespace vlmzoo
