#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "head_layout.hpp"
#include "loss_checks.hpp"
#include "vlmzoo/losses.hpp"
#include "vlmzoo/nn/autocast.hpp"

namespace vlmzoo {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorCode::kMismatch, "language loss: " + message); }

/// The rows that count, in chunks of which the logits exist one at a time.
struct Chunks {
  at::Tensor rows;     // [T, H], no graph
  at::Tensor targets;  // int64 [T]
  std::function<at::Tensor(const at::Tensor&)> lm_head;
  LanguageLoss loss;
  double normalizer;
  AutocastScope::State autocast;  // as it was when the loss was made; backward runs without

  template <class Work>  // work(first row, rows)
  void for_each(const Work& work) const {
    const AutocastScope scope(autocast);
    for (std::int64_t first = 0; first < rows.size(0); first += loss.rows_at_once) {
      work(first, std::min(loss.rows_at_once, rows.size(0) - first));
    }
  }

  /// Their part of the loss, of rows [first, first + hidden.size(0)).
  at::Tensor part(const at::Tensor& hidden, std::int64_t first) const {
    const at::Tensor logits = lm_head(hidden);
    const at::Tensor expected = targets.narrow(0, first, hidden.size(0));
    if (logits.dim() != 2 || logits.size(0) != hidden.size(0)) {
      fail(fmt::format("lm_head made {} of hidden states {}", shape_of(logits), shape_of(hidden)));
    }
    if (const std::int64_t highest = expected.max().item<std::int64_t>(); highest >= logits.size(1)) {
      fail(fmt::format("the target {} is outside the vocabulary of {}", highest, logits.size(1)));
    }
    const at::Tensor sum = at::cross_entropy_loss(logits.to(at::kFloat), expected, /*weight=*/{}, at::Reduction::Sum,
                                                  loss.ignore_index, loss.label_smoothing);
    return sum.div(normalizer);
  }
};

/// Makes each chunk's logits again and sends its gradient through them at once.
struct LanguageLossBackward : torch::autograd::Node {
  std::unique_ptr<Chunks> chunks;

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    if (!gradients[0].defined()) return {at::Tensor()};
    if (chunks == nullptr) throw Error(ErrorCode::kInternal, "language loss: a second backward without retain_graph");
    at::Tensor result = at::empty_like(chunks->rows);
    chunks->for_each([&](std::int64_t first, std::int64_t count) {
      const at::AutoGradMode with_graph(true);
      const at::Tensor hidden = chunks->rows.narrow(0, first, count).detach().requires_grad_(true);
      chunks->part(hidden, first).backward(gradients[0]);
      result.narrow(0, first, count).copy_(hidden.grad());
    });
    return {result};
  }

  void release_variables() override { chunks = nullptr; }
};

void check(const at::Tensor& hidden, const at::Tensor& targets, const LanguageLoss& loss) {
  if (loss.rows_at_once < 1) {
    throw Error(ErrorCode::kConfig, fmt::format("rows_at_once is {}; expected at least 1", loss.rows_at_once));
  }
  check_smoothing(loss.label_smoothing);
  if (hidden.dim() < 1 || hidden.sizes().slice(0, hidden.dim() - 1) != targets.sizes() || !hidden.is_floating_point()) {
    fail(fmt::format("hidden states {} and targets {}; expected [..., H] and [...]", shape_of(hidden),
                     shape_of(targets)));
  }
}

/// Places of the targets that count, int64 [T].
at::Tensor places_of(const at::Tensor& targets, const LanguageLoss& loss) {
  if (!targets.defined() || targets.scalar_type() != at::kLong) fail("targets aren't int64");
  return targets.flatten().ne(loss.ignore_index).nonzero().flatten();
}

}  // namespace

std::int64_t target_count(const at::Tensor& targets, const LanguageLoss& loss) {
  return places_of(targets, loss).size(0);
}

at::Tensor language_loss(const at::Tensor& hidden, const at::Tensor& targets,
                         std::function<at::Tensor(const at::Tensor&)> lm_head, const LanguageLoss& loss,
                         double normalizer) {
  const at::Tensor places = places_of(targets, loss);
  check(hidden, targets, loss);
  check_normalizer(normalizer);
  const std::int64_t count = places.size(0);
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)}).index_select(0, places);
  const at::Tensor expected = targets.flatten().index_select(0, places);
  if (count > 0 && expected.min().item<std::int64_t>() < 0) {
    fail(fmt::format("the target {} is no token; {} marks what doesn't count", expected.min().item<std::int64_t>(),
                     loss.ignore_index));
  }
  auto chunks = std::make_unique<Chunks>(
      Chunks{rows.detach(), expected, std::move(lm_head), loss,
             normalizer > 0 ? normalizer : static_cast<double>(std::max<std::int64_t>(count, 1)),
             AutocastScope::State::of(hidden.device().type())});

  // One chunk's logits exist in any case: a graph over them saves making them twice.
  if (at::GradMode::is_enabled() && count > 0 && count <= loss.rows_at_once) {
    const AutocastScope scope(chunks->autocast);
    return chunks->part(rows, 0);
  }
  at::Tensor total = at::zeros({}, hidden.options().dtype(at::kFloat).requires_grad(false));
  chunks->for_each([&](std::int64_t first, std::int64_t size) {
    const at::NoGradGuard no_graph;
    total.add_(chunks->part(chunks->rows.narrow(0, first, size), first));
  });
  if (!at::GradMode::is_enabled()) return total;

  const auto node = c10::make_intrusive<LanguageLossBackward>();
  node->chunks = std::move(chunks);
  node->set_next_edges(torch::autograd::collect_next_edges(rows));
  torch::autograd::set_history(total, node);
  return total;
}

}  // namespace vlmzoo
