#include "vlmzoo/files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "input_file.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;

std::string read_file(const fs::path& path, std::size_t limit) {
  InputFile file(path, InputFile::Accept::kAnything);
  const auto check = [&](std::uint64_t size) {
    if (size <= limit) return;
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: too large: {} bytes or more, expected at most {}", path.string(), size, limit));
  };
  check(file.size());
  // One byte more than expected shows the end of the file without growing; a pipe or /proc says 0 and does grow.
  std::string content(static_cast<std::size_t>(file.size()) + 1, '\0');
  std::size_t done = 0;
  for (;;) {
    const std::size_t count = file.read(std::as_writable_bytes(std::span(content).subspan(done)));
    if (count == 0) break;
    done += count;
    check(done);
    if (done == content.size()) content.resize(std::max<std::size_t>(2 * done, 4096));
  }
  content.resize(done);
  return content;
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

bool is_utf8(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned char lead = at(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                               : (lead & 0xF0) == 0xE0        ? 3
                               : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                              : 0;
    if (length == 0 || text.size() - i < length) return false;
    // The second byte's range shuts out overlong forms, surrogates and what lies above U+10FFFF (Unicode, table 3-7).
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (at(i + 1) < low || at(i + 1) > high) return false;
    for (std::size_t k = 2; k < length; ++k) {
      if ((at(i + k) & 0xC0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

}  // namespace vlmzoo
