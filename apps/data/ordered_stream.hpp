#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {

struct StreamOptions {
  int threads = 0;         ///< that make items; 0: one per processor, 8 at most
  std::int64_t ahead = 0;  ///< items made or in the making that weren't asked for yet; 0: 4 per thread
};

/// The items make(0), make(1), …, make(count - 1), made on background threads and given out in order, whatever order
/// they get ready in. At most `ahead` of them exist besides those given out. next() belongs to one thread; `make` runs
/// on many at once.
template <class T>
class OrderedStream {
 public:
  OrderedStream(std::int64_t count, std::function<T(std::int64_t)> make, StreamOptions options = {})
      : count_(count), make_(std::move(make)) {
    const double processors = std::min<double>(std::thread::hardware_concurrency(), processor_quota());
    const int threads = options.threads > 0 ? options.threads : std::clamp(static_cast<int>(processors), 1, 8);
    slots_.resize(static_cast<std::size_t>(options.ahead > 0 ? options.ahead : 4 * threads));
    try {
      for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {  // fewer will do
      if (threads_.empty()) throw;
    }
  }

  /// Stops: waits for the items in the making and throws the rest away.
  ~OrderedStream() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    room_.notify_all();
  }
  OrderedStream(const OrderedStream&) = delete;
  OrderedStream& operator=(const OrderedStream&) = delete;

  std::int64_t count() const { return count_; }

  /// The next item; nothing behind the last one. What `make` threw is thrown here when its item's turn comes; the call
  /// after that goes on with the item behind it. Error: kInterrupted after Ctrl-C, also while waiting.
  std::optional<T> next() {
    check_interrupt();
    std::unique_lock lock(mutex_);
    if (given_ == count_) return std::nullopt;
    Slot& slot = slots_[static_cast<std::size_t>(given_) % slots_.size()];
    while (!slot.ready) {
      ready_.wait_for(lock, std::chrono::milliseconds(100));  // a signal wakes no condition variable
      check_interrupt();
    }
    Slot result = std::exchange(slot, Slot{});
    ++given_;
    lock.unlock();
    room_.notify_one();
    if (result.error) std::rethrow_exception(result.error);
    return std::move(result.item);
  }

 private:
  struct Slot {
    std::optional<T> item;
    std::exception_ptr error;
    bool ready = false;
  };

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      room_.wait(lock, [this] {
        return stopped_ || begun_ == count_ || begun_ - given_ < static_cast<std::int64_t>(slots_.size());
      });
      if (stopped_ || begun_ == count_) return;
      const std::int64_t index = begun_++;
      lock.unlock();
      Slot result;
      try {
        result.item.emplace(make_(index));
      } catch (...) {
        result.error = std::current_exception();
      }
      result.ready = true;
      lock.lock();
      slots_[static_cast<std::size_t>(index) % slots_.size()] = std::move(result);
      ready_.notify_one();
    }
  }

  const std::int64_t count_;
  const std::function<T(std::int64_t)> make_;
  std::mutex mutex_;
  std::condition_variable ready_, room_;
  std::vector<Slot> slots_;  // item i waits in slot i modulo their number
  std::int64_t begun_ = 0, given_ = 0;
  bool stopped_ = false;
  std::vector<std::jthread> threads_;  // last: joined before anything else goes away
};

}  // namespace vlmzoo::app
