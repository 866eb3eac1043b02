#pragma once

#include <exception>
#include <thread>
#include <vector>

namespace vlmzoo::app {

/// Calls work(i) for i in [0, count), each on a thread of its own, waits for all and rethrows the first exception.
template <class Work>
void on_threads(int count, const Work& work) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&work, &errors, i] {
        try {
          work(i);
        } catch (...) {
          errors[static_cast<std::size_t>(i)] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace vlmzoo::app
