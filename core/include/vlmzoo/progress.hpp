#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// Progress of one long piece of work on stderr: a line that redraws itself (done, rate, time left) on a terminal, and
/// at most one plain line every ten seconds elsewhere. Silent below LogLevel::kInfo. One thread at a time.
class VLMZOO_API Progress {
 public:
  /// `unit` names what is counted; "B" prints as MB and MB/s. Work shorter than half a second prints nothing.
  Progress(std::string what, std::uint64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::uint64_t amount);

 private:
  void draw(bool last);

  std::string what_, unit_;
  std::uint64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
  bool terminal_, shown_ = false;
};

}  // namespace vlmzoo
