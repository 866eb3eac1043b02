#include "vlmzoo/nn/padded.hpp"

#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>

namespace vlmzoo {

Padded::Padded(const std::vector<std::int64_t>& lengths) : batch_(static_cast<std::int64_t>(lengths.size())) {
  for (const std::int64_t length : lengths) longest_ = std::max(longest_, length);
  if (std::ranges::all_of(lengths, [this](std::int64_t length) { return length == longest_; })) return;
  std::vector<std::int64_t> rows(static_cast<std::size_t>(batch_ * longest_), 0), places;
  std::int64_t row = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    for (std::int64_t t = 0; t < lengths[b]; ++t) {
      places.push_back(static_cast<std::int64_t>(b) * longest_ + t);
      rows[static_cast<std::size_t>(places.back())] = row++;
    }
    for (std::int64_t t = lengths[b]; t < longest_; ++t)
      rows[static_cast<std::size_t>(static_cast<std::int64_t>(b) * longest_ + t)] = std::max<std::int64_t>(row - 1, 0);
  }
  row_of_place_ = at::tensor(rows, at::kLong);
  place_of_row_ = at::tensor(places, at::kLong);
}

at::Tensor Padded::pad(const at::Tensor& x) const {
  const at::Tensor rows = row_of_place_.defined() ? x.index_select(0, row_of_place_.to(x.device())) : x;
  return rows.unflatten(0, {batch_, longest_});
}

at::Tensor Padded::unpad(const at::Tensor& x) const {
  const at::Tensor places = x.flatten(0, 1);
  return place_of_row_.defined() ? places.index_select(0, place_of_row_.to(x.device())) : places;
}

at::Tensor batch_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  const std::int64_t batch = query.size(0), tokens = query.size(1), heads = query.size(2), width = query.size(3),
                     keys = key.size(1), kv_heads = key.size(2), group = heads / kv_heads;
  const auto repeated = [&](const at::Tensor& x) {
    return x.transpose(1, 2).reshape({batch * kv_heads, 1, keys, width}).expand({batch * kv_heads, group, keys, width});
  };
  const at::Tensor queries = query.transpose(1, 2).reshape({batch * kv_heads, group, tokens, width});
  const at::Tensor mixed = at::scaled_dot_product_attention(queries, repeated(key), repeated(value), /*attn_mask=*/{},
                                                            /*dropout_p=*/0.0, causal);
  return mixed.reshape({batch, heads, tokens, width}).transpose(1, 2).reshape({batch, tokens, heads * width});
}

bool worth_batching(const std::vector<std::int64_t>& lengths, const at::Tensor& x) {
  if (lengths.size() < 2 || !c10::GradMode::is_enabled() || !x.requires_grad()) return false;
  const std::int64_t longest = *std::ranges::max_element(lengths),
                     total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  return total > 0 && 2 * longest * std::ssize(lengths) <= 3 * total;
}

}  // namespace vlmzoo
