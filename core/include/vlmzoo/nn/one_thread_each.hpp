#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

namespace vlmzoo {

/// work(i) for i in [0, count), shared out over LibTorch's threads, each computing on its own: for tasks whose products
/// are too small for several threads. What a task computes doesn't depend on how many threads there are. Rethrows the
/// first exception. Thread-local state (gradient mode, autocast) is the default in `work`.
template <class Work>
void one_thread_each(std::int64_t count, const Work& work) {
  const std::int64_t threads = at::get_num_threads();
  at::parallel_for(0, threads, /*grain_size=*/1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t thread = begin; thread < end; ++thread) {
      for (std::int64_t i = thread; i < count; i += threads) work(i);
    }
  });
}

}  // namespace vlmzoo
