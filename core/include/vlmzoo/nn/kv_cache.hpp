#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

struct KvCacheShape {
  std::int64_t layers = 0, batch = 0, capacity = 0, kv_heads = 0, head_dim = 0;
};

/// Keys and values of the self-attention layers of one request, allocated once and written in place. An adapter that
/// keeps more per request (cross-attention keys) derives from it. One thread at a time.
class VLMZOO_API KvCache {
 public:
  KvCache(const KvCacheShape& shape, at::ScalarType type, at::Device device);
  virtual ~KvCache();

  std::int64_t batch() const { return shape_.batch; }
  std::int64_t capacity() const { return shape_.capacity; }
  std::int64_t length(std::int64_t sequence) const { return lengths_[static_cast<std::size_t>(sequence)]; }
  std::uint64_t bytes() const;

  /// Writes `key` and `value` [n, kv_heads, head_dim] at the sequence's end without moving it, and returns views of all
  /// [kv_heads, length + n, head_dim]. Error: kMismatch when the capacity is exceeded.
  std::pair<at::Tensor, at::Tensor> append(std::int64_t layer, std::int64_t sequence, const at::Tensor& key,
                                           const at::Tensor& value);
  /// Moves the end of a sequence forward once all layers have appended.
  void advance(std::int64_t sequence, std::int64_t tokens);

  const std::vector<std::int64_t>& lengths() const { return lengths_; }
  /// Puts the ends of all sequences back to where they were, for as long as it lives: a layer that is computed again.
  class Rewound {
   public:
    Rewound(KvCache& cache, std::vector<std::int64_t> lengths) : cache_(cache), kept_(std::move(lengths)) {
      kept_.swap(cache_.lengths_);
    }
    ~Rewound() { kept_.swap(cache_.lengths_); }
    Rewound(const Rewound&) = delete;
    Rewound& operator=(const Rewound&) = delete;

   private:
    KvCache& cache_;
    std::vector<std::int64_t> kept_;
  };

 private:
  KvCacheShape shape_;
  std::vector<at::Tensor> keys_, values_;  // per layer [batch, kv_heads, capacity, head_dim]
  std::vector<std::int64_t> lengths_;
};

}  // namespace vlmzoo
