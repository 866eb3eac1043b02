#include "vlmzoo/interrupt.hpp"

#include <atomic>
#include <csignal>

#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch it");

// Either signal resets both, so that Ctrl-C then SIGTERM ends the process too.
void note_signal(int) {
  flag = true;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  ::sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read that waits for the keyboard has to return. vlmzoo's own reads and writes go on after EINTR.
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() noexcept { return flag; }

void check_interrupt() {
  if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted");
}

}  // namespace vlmzoo
