#include "vlmzoo/nn/kv_cache.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include "vlmzoo/error.hpp"

namespace vlmzoo {

KvCache::KvCache(const KvCacheShape& shape, at::ScalarType type, at::Device device)
    : shape_(shape), lengths_(static_cast<std::size_t>(shape.batch), 0) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(at::empty({shape.batch, shape.kv_heads, shape.capacity, shape.head_dim}, options));
    values_.push_back(at::empty({shape.batch, shape.kv_heads, shape.capacity, shape.head_dim}, options));
  }
}

KvCache::~KvCache() = default;

std::uint64_t KvCache::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& tensor : keys_) sum += 2 * tensor.nbytes();
  return sum;
}

std::pair<at::Tensor, at::Tensor> KvCache::append(std::int64_t layer, std::int64_t sequence, const at::Tensor& key,
                                                  const at::Tensor& value) {
  const std::int64_t begin = length(sequence), count = key.size(0);
  if (begin + count > shape_.capacity) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("a cache for {} tokens holds {} and can't take {} more", shape_.capacity, begin, count));
  }
  const at::Tensor keys = keys_[static_cast<std::size_t>(layer)].select(0, sequence);
  const at::Tensor values = values_[static_cast<std::size_t>(layer)].select(0, sequence);
  if (c10::GradMode::is_enabled() && (key.requires_grad() || value.requires_grad())) {
    // The next sequence writes into the same buffer, which would invalidate what is saved for the backward pass.
    const auto joined = [&](const at::Tensor& held, const at::Tensor& added) {
      held.narrow(1, begin, count).copy_(added.detach().transpose(0, 1));
      return at::cat({held.narrow(1, 0, begin), added.transpose(0, 1).to(held.scalar_type())}, 1);
    };
    return {joined(keys, key), joined(values, value)};
  }
  keys.narrow(1, begin, count).copy_(key.transpose(0, 1));
  values.narrow(1, begin, count).copy_(value.transpose(0, 1));
  return {keys.narrow(1, 0, begin + count), values.narrow(1, 0, begin + count)};
}

void KvCache::advance(std::int64_t sequence, std::int64_t tokens) {
  lengths_[static_cast<std::size_t>(sequence)] += tokens;
}

}  // namespace vlmzoo
