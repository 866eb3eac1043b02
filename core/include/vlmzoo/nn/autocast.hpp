#pragma once

#include <ATen/autocast_mode.h>

namespace vlmzoo {

/// Autocast of one device as it should be while this lives, then again as it was. The cache of cast weights is off: a
/// copy that was cast without a graph would stay in it and lose the gradients of who finds it there.
class AutocastScope {
 public:
  struct State {
    at::DeviceType device;
    bool enabled;
    at::ScalarType type;

    static State of(at::DeviceType device) {
      return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
    }
    void set() const {
      at::autocast::set_autocast_enabled(device, enabled);
      at::autocast::set_autocast_dtype(device, type);
    }
  };

  explicit AutocastScope(const State& state)
      : before_(State::of(state.device)), cached_(at::autocast::is_autocast_cache_enabled()) {
    state.set();
    at::autocast::set_autocast_cache_enabled(false);
  }
  ~AutocastScope() {
    before_.set();
    at::autocast::set_autocast_cache_enabled(cached_);
  }
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  State before_;
  bool cached_;
};

}  // namespace vlmzoo
