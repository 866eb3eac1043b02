#pragma once

#include <optional>
#include <string>

#include "session.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {

/// What `switch` and `rollback` share.
struct ChangeOptions {
  std::string zoo, reason;
  bool no_probe = false, json = false;
  HostOptions host;
  ThreadOption threads;

  void add_to(Options& options);
  /// Error: kUsage.
  void apply(const Options& options) const;
  /// Tries a configuration with these options; empty with --no-probe.
  Probe probe() const;
  /// Says what was done; no record: `active` was active already.
  void show(const std::optional<Record>& record, const std::string& active) const;
};

}  // namespace vlmzoo::app
