#include "vlmzoo/log.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <set>
#include <string>

#include "terminal.hpp"

namespace vlmzoo {
namespace {

std::atomic<LogLevel> current_level{LogLevel::kInfo};

bool colour() {
  const char* no_colour = std::getenv("NO_COLOR");
  return stderr_is_terminal() && (no_colour == nullptr || *no_colour == '\0');
}

/// Names of files and tensors come from outside: an escape sequence in them must not reach the terminal.
std::string harmless(std::string_view message) {
  std::string result(message);
  for (char& c : result) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F) c = '?';
  }
  return result;
}

void log(LogLevel level, std::string_view prefix, std::string_view escape, std::string_view message) {
  if (log_level() < level) return;
  std::string line;
  if (!prefix.empty() && colour()) {
    line.append(escape).append(prefix).append("\x1b[0m");
  } else {
    line = prefix;
  }
  line += harmless(message) + '\n';
  const std::lock_guard lock(terminal().mutex);
  if (terminal().progress_line) write_to_stderr("\r\x1b[K");
  write_to_stderr(line);
}

}  // namespace

void set_log_level(LogLevel level) { current_level = level; }
LogLevel log_level() { return current_level; }

void warn(std::string_view message) { log(LogLevel::kWarning, "warning: ", "\x1b[33m", message); }
void info(std::string_view message) { log(LogLevel::kInfo, "", "", message); }
void debug(std::string_view message) { log(LogLevel::kDebug, "debug: ", "\x1b[2m", message); }

void warn_once(std::string_view message) {
  static std::mutex mutex;
  static std::set<std::string, std::less<>> said;
  {
    const std::lock_guard lock(mutex);
    if (!said.emplace(message).second) return;
  }
  warn(message);
}

Terminal& terminal() {
  // Never destroyed: threads and static destructors may still log while the process ends.
  static Terminal& instance = *new Terminal;
  return instance;
}

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

void write_to_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace vlmzoo
