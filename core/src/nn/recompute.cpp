#include "vlmzoo/nn/recompute.hpp"

#include <ATen/core/grad_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <utility>

#include "vlmzoo/error.hpp"
#include "vlmzoo/nn/autocast.hpp"

namespace vlmzoo {
namespace {

thread_local bool wanted = false;

/// Makes the layer's graph again and sends the gradient through it at once.
struct RecomputeBackward : torch::autograd::Node {
  std::function<at::Tensor(const at::Tensor&)> work;
  at::Tensor input;  // no graph
  AutocastScope::State autocast;

  explicit RecomputeBackward(const AutocastScope::State& state) : autocast(state) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    if (!gradients[0].defined()) return {at::Tensor()};
    if (!input.defined()) throw Error(ErrorCode::kInternal, "recomputed: a second backward without retain_graph");
    const at::AutoGradMode with_graph(true);
    const at::Tensor x = input.detach().requires_grad_(true);
    at::Tensor y;
    {
      const AutocastScope scope(autocast);
      y = work(x);
    }
    y.backward(gradients[0]);
    return {x.grad()};
  }

  void release_variables() override { input.reset(); }
};

}  // namespace

RecomputeScope::RecomputeScope(bool on) : before_(std::exchange(wanted, on)) {}
RecomputeScope::~RecomputeScope() { wanted = before_; }

bool recompute_wanted() { return wanted && c10::GradMode::is_enabled(); }

at::Tensor recomputed(const std::function<at::Tensor(const at::Tensor&)>& work, const at::Tensor& x) {
  // Without a graph before it a frozen layer keeps nothing anyway, and no gradient has to come back to x. What is
  // trained begins with tensors of its own role (embeddings, class token), so its layers do have one.
  if (!recompute_wanted() || !x.requires_grad()) return work(x);
  const auto node = c10::make_intrusive<RecomputeBackward>(AutocastScope::State::of(x.device().type()));
  node->set_next_edges(torch::autograd::collect_next_edges(x));
  node->work = work;
  node->input = x.detach();
  at::Tensor y;
  {
    // With a graph, which ends here: without one layers choose other kernels, and the values wouldn't be those that the
    // backward pass makes again.
    const RecomputeScope once(false);
    y = work(x.detach().requires_grad_(true)).detach();
  }
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace vlmzoo
