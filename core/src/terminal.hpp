#pragma once

#include <mutex>
#include <string_view>

namespace vlmzoo {

/// Serialises everything that goes to stderr, and knows whether a progress line stands there unfinished.
struct Terminal {
  std::mutex mutex;
  bool progress_line = false;
};

/// One for the process.
Terminal& terminal();

bool stderr_is_terminal();

/// Writes all bytes to stderr; what can't be written is lost, as there is no place to say so.
void write_to_stderr(std::string_view text);

}  // namespace vlmzoo
