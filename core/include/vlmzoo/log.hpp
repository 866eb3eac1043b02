#pragma once

#include <string_view>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

enum class LogLevel { kQuiet, kWarning, kInfo, kDebug };

/// Sets what reaches stderr from now on; the default is kInfo. Thread-safe, as are the functions below.
VLMZOO_API void set_log_level(LogLevel level);
VLMZOO_API LogLevel log_level();

/// One line to stderr, never to stdout. Colour only on a terminal and without NO_COLOR.
VLMZOO_API void warn(std::string_view message);
VLMZOO_API void info(std::string_view message);
VLMZOO_API void debug(std::string_view message);

/// Warns once per process for a given text.
VLMZOO_API void warn_once(std::string_view message);

}  // namespace vlmzoo
