#pragma once

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// From here on the first SIGINT or SIGTERM only sets a flag, and the second one ends the process; SIGPIPE and SIGXFSZ
/// turn into write errors. Called once by a program's `main`, never by a library.
VLMZOO_API void install_signal_handlers();

/// True once SIGINT or SIGTERM came. Long loops ask it between steps and end cleanly with what there is.
VLMZOO_API bool interrupted() noexcept;

/// Throws Error(kInterrupted) once SIGINT or SIGTERM came.
VLMZOO_API void check_interrupt();

}  // namespace vlmzoo
