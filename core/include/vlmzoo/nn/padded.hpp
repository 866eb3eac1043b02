#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// Sequences that lie end to end (sequence i owns `lengths[i]` rows) as one batch, filled up behind each to the
/// longest: many short sequences take one operation instead of one each. Gradients pass.
class VLMZOO_API Padded {
 public:
  explicit Padded(const std::vector<std::int64_t>& lengths);

  /// x [T, ...] -> [B, longest, ...], filled up with a sequence's last row.
  at::Tensor pad(const at::Tensor& x) const;
  /// x [B, longest, ...] -> [T, ...].
  at::Tensor unpad(const at::Tensor& x) const;

 private:
  std::int64_t batch_, longest_ = 0;
  at::Tensor row_of_place_, place_of_row_;  // undefined when there is nothing to fill up
};

/// Softmax attention of a batch: query [B, T, heads, d], key and value [B, N, kv_heads, d] -> [B, T, heads · d].
/// `causal`: query t sees the keys 0 to t (T = N).
VLMZOO_API at::Tensor batch_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                      bool causal);

/// Whether sequences should go as one batch: while x's gradients are recorded, if little is to be filled up. Inference
/// computes each sequence alone, so that an answer doesn't depend on the batch it is in.
VLMZOO_API bool worth_batching(const std::vector<std::int64_t>& lengths, const at::Tensor& x);

}  // namespace vlmzoo
