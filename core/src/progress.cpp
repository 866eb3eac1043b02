#include "vlmzoo/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "shortened.hpp"
#include "terminal.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kSilent = 500ms;
constexpr auto kRedraw = 100ms;
constexpr auto kPlainLine = 10s;

std::string amount(double count, const std::string& unit) {
  if (unit != "B") return fmt::format("{:.0f} {}", count, unit);
  return count < 1e9 ? fmt::format("{:.0f} MB", count / 1e6) : fmt::format("{:.2f} GB", count / 1e9);
}

std::string rate(double per_second, const std::string& unit) {
  if (unit == "B") return fmt::format("{:.0f} MB/s", per_second / 1e6);
  return fmt::format("{:.{}f} {}/s", per_second, per_second < 10 ? 2 : 0, unit);
}

std::string duration(double seconds) {
  if (seconds >= 100 * 3600.0) return "more than 100 h";
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
  if (whole >= 60) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} s", whole);
}

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(std::string what, std::uint64_t total, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      start_(Clock::now()),
      drawn_(start_),
      terminal_(stderr_is_terminal()) {}

Progress::~Progress() {
  if (shown_ && terminal_) draw(/*last=*/true);
}

void Progress::advance(std::uint64_t amount) {
  done_ += amount;
  const auto now = Clock::now();
  // drawn_ is the start until something is shown.
  if (terminal_ ? now - start_ >= kSilent && now - drawn_ >= kRedraw : now - drawn_ >= kPlainLine) draw(/*last=*/false);
}

void Progress::draw(bool last) {
  if (log_level() < LogLevel::kInfo) return;
  drawn_ = Clock::now();
  const double seconds = std::max(std::chrono::duration<double>(drawn_ - start_).count(), 1e-3);
  const double per_second = static_cast<double>(done_) / seconds;

  std::string line = shortened(what_) + ": ";
  if (total_ > 0)
    line +=
        fmt::format("{:.0f}%, ", 100.0 * static_cast<double>(std::min(done_, total_)) / static_cast<double>(total_));
  line += amount(static_cast<double>(done_), unit_);
  if (total_ > 0) line += " of " + amount(static_cast<double>(total_), unit_);
  line += ", " + rate(per_second, unit_);
  if (last || total_ == 0) {
    line += ", took " + duration(seconds);
  } else if (done_ > 0 && done_ < total_) {
    line += ", " + duration(static_cast<double>(total_ - done_) / per_second) + " left";
  }

  const std::lock_guard lock(terminal().mutex);
  if (!terminal_) {
    write_to_stderr(line + "\n");
  } else {
    // A line that wraps could not be redrawn.
    write_to_stderr("\r\x1b[K" + shortened(line, terminal_width() - 1) + (last ? "\n" : ""));
    terminal().progress_line = !last;
  }
  shown_ = true;
}

}  // namespace vlmzoo
