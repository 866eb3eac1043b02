#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): while one lives on this thread, layers that gradients
/// pass keep their input alone and compute the rest again in the backward pass. The same numbers for about a third more
/// time. Models, caches and inputs have to live until backward() is through.
class VLMZOO_API RecomputeScope {
 public:
  explicit RecomputeScope(bool on);
  ~RecomputeScope();
  RecomputeScope(const RecomputeScope&) = delete;
  RecomputeScope& operator=(const RecomputeScope&) = delete;

 private:
  bool before_;
};

/// True where recomputed() would keep the input alone.
VLMZOO_API bool recompute_wanted();

/// work(x); `work` is copied and called again in the backward pass where a RecomputeScope asks for it. It may use
/// leaves that are trained, but no other tensor with a graph than x.
VLMZOO_API at::Tensor recomputed(const std::function<at::Tensor(const at::Tensor&)>& work, const at::Tensor& x);

}  // namespace vlmzoo
