#include "evaluation/folded_text.hpp"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

namespace vlmzoo::app {
namespace {

/// Whether the character that begins at `text[at]` belongs to words.
bool in_word(std::string_view text, std::size_t at) {
  utf8proc_int32_t c = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  if (utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &c) < 1) return false;
  const utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_PC;  // letters, marks, numbers, '_'
}

/// Where the character begins that ends before `end`.
std::size_t before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

std::string folded(std::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD);
  const utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  if (length < 0) return std::string(text);
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(result, std::free);
  return {reinterpret_cast<const char*>(result), static_cast<std::size_t>(length)};
}

std::size_t find_word(std::string_view text, std::string_view word) {
  if (word.empty()) return std::string_view::npos;
  const bool first = in_word(word, 0), last = in_word(word, before(word, word.size()));
  for (std::size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    const bool starts = at == 0 || !first || !in_word(text, before(text, at));
    const bool ends = end == text.size() || !last || !in_word(text, end);
    if (starts && ends) return at;
  }
  return std::string_view::npos;
}

}  // namespace vlmzoo::app
