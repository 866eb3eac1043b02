#include "output.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

[[noreturn]] void fail() {
  throw Error(ErrorCode::kIo, fmt::format("cannot write to standard output: {}", std::strerror(errno)));
}

}  // namespace

std::string to_text(const OrderedJson& json) {
  return json.dump(/*indent=*/2, ' ', /*ensure_ascii=*/false, OrderedJson::error_handler_t::replace) + '\n';
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail();
}

void print_json(const OrderedJson& json) { print(to_text(json)); }

void flush_output() {
  if (std::fflush(stdout) != 0) fail();
}

void complain(std::string_view message) {
  // On a terminal a progress line may stand there unfinished.
  std::string line = ::isatty(STDERR_FILENO) == 1 ? "\r\x1b[Kerror: " : "error: ";
  for (const char c : message) {
    // Names in messages come from outside: an escape sequence in them must not reach the terminal.
    const auto byte = static_cast<unsigned char>(c);
    line += (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F ? '?' : c;
  }
  line += '\n';
  std::fputs(line.c_str(), stderr);
}

}  // namespace vlmzoo::app
