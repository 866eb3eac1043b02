#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>

namespace vlmzoo {

/// The rows of one head: [count, width], `stride` apart.
template <class T>
struct HeadRows {
  const T* data;
  std::int64_t stride, count, width;

  HeadRows(const at::Tensor& x, std::int64_t batch, std::int64_t head)
      : data(x.const_data_ptr<T>() + batch * x.stride(0) + head * x.stride(1)),
        stride(x.stride(2)),
        count(x.size(2)),
        width(x.size(3)) {}
};

/// Softmax attention over views [B, heads, T, d] and [B, kv heads, N, d] (last stride 1) -> [B, T, heads · d], one head
/// at a time. `Head` is what one thread works with: Head(keys, width, causal), take(key rows, value rows), run(query
/// rows, begin, end, to, stride) for rows [begin, end) of the result, row t to `to` + t · stride, and
/// Head::kQueries, of which `begin` is a multiple.
template <class Head, class T>
at::Tensor attention_by_heads(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  const std::int64_t batch = query.size(0), heads = query.size(1), tokens = query.size(2), width = query.size(3),
                     group = heads / key.size(1);
  at::Tensor result = at::empty({batch, tokens, heads * width}, query.options());
  T* to = result.mutable_data_ptr<T>();
  // Where there are more threads than heads, a head's queries are shared out too.
  const std::int64_t blocks = (tokens + Head::kQueries - 1) / Head::kQueries, wanted = 2 * at::get_num_threads();
  const std::int64_t parts = std::clamp<std::int64_t>((wanted - 1) / (batch * heads) + 1, 1, blocks);
  at::parallel_for(0, batch * heads * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    Head attention(key.size(2), width, causal);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t part = i % parts, head = i / parts % heads, b = i / parts / heads;
      if (i == begin || (part == 0 && head % group == 0))
        attention.take(HeadRows<T>(key, b, head / group), HeadRows<T>(value, b, head / group));
      const std::int64_t first = blocks * part / parts * Head::kQueries,
                         last = blocks * (part + 1) / parts * Head::kQueries;
      attention.run(HeadRows<T>(query, b, head), first, std::min(last, tokens),
                    to + b * tokens * heads * width + head * width, heads * width);
    }
  });
  return result;
}

}  // namespace vlmzoo
