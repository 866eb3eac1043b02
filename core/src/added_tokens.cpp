#include "added_tokens.hpp"

#include <utf8proc.h>

#include <algorithm>

namespace vlmzoo {
namespace {

unsigned char byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

utf8proc_int32_t first_code_point(std::string_view text) {
  utf8proc_int32_t code_point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &code_point);
  return code_point;
}

/// Bytes of the last character.
std::size_t last_size(std::string_view text) {
  std::size_t size = 1;
  while (size < text.size() && (byte_at(text, text.size() - size) & 0xC0) == 0x80) ++size;
  return size;
}

std::size_t first_size(std::string_view text) {
  std::size_t size = 1;
  while (size < text.size() && (byte_at(text, size) & 0xC0) == 0x80) ++size;
  return size;
}

/// Unicode's White_Space.
bool is_space(utf8proc_int32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// \w of Rust's regex crate: Alphabetic, M, Nd, Pc, Join_Control.
bool is_word(utf8proc_int32_t c) {
  // Alphabetic beyond the categories below: circled and squared letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D) {
    return true;
  }
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(first_code_point(text.substr(text.size() - last_size(text))));
}

bool starts_with_word(std::string_view text) { return !text.empty() && is_word(first_code_point(text)); }

std::size_t spaces_at_end(std::string_view text) {
  std::size_t left = text.size();
  while (left > 0) {
    const std::size_t size = last_size(text.substr(0, left));
    if (!is_space(first_code_point(text.substr(left - size, size)))) break;
    left -= size;
  }
  return text.size() - left;
}

std::size_t spaces_at_start(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_space(first_code_point(text.substr(at)))) at += first_size(text.substr(at));
  return at;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.pattern < b.pattern; });
  for (const Entry& entry : entries_) ++first_byte_[byte_at(entry.pattern, 0) + 1U];
  for (std::size_t byte = 0; byte < 256; ++byte) first_byte_[byte + 1] += first_byte_[byte];
}

const AddedTokenFinder::Entry* AddedTokenFinder::longest(std::string_view text, std::string_view marks,
                                                         std::span<const TokenId> usable, std::size_t at) const {
  const Entry* best = nullptr;
  const auto begin = entries_.begin();
  auto low = begin + static_cast<std::ptrdiff_t>(first_byte_[byte_at(text, at)]);
  auto high = begin + static_cast<std::ptrdiff_t>(first_byte_[byte_at(text, at) + 1U]);
  // Here [low, high) are the patterns that begin with the `length` bytes of text seen so far.
  for (std::size_t length = 1; low != high; ++length) {
    if (low->pattern.size() == length) {
      const bool marked = !marks.empty() && marks.substr(at, length).find('\1') != marks.npos;
      if (!marked || std::find(usable.begin(), usable.end(), TokenId{low->token.id}) != usable.end()) best = &*low;
      if (++low == high) break;
    }
    if (at + length == text.size()) break;
    const unsigned char next = byte_at(text, at + length);
    low = std::lower_bound(
        low, high, next, [&](const Entry& entry, unsigned char byte) { return byte_at(entry.pattern, length) < byte; });
    high = std::upper_bound(
        low, high, next, [&](unsigned char byte, const Entry& entry) { return byte < byte_at(entry.pattern, length); });
  }
  return best;
}

std::vector<TextPart> AddedTokenFinder::cut(std::string_view text, std::string_view marks,
                                            std::span<const TokenId> usable) const {
  // Follows the reference's AddedVocabulary::find_matches step by step, so that odd flags behave alike.
  std::vector<TextPart> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !entries_.empty();) {
    const Entry* entry = longest(text, marks, usable, at);
    if (entry == nullptr) {
      ++at;
      continue;
    }
    std::size_t start = at, stop = at + entry->pattern.size();
    at = stop;
    const AddedToken& token = entry->token;
    if (token.single_word && (ends_with_word(text.substr(0, start)) || starts_with_word(text.substr(stop)))) continue;
    if (token.lstrip) start = std::max(start - spaces_at_end(text.substr(0, start)), done);
    if (token.rstrip) stop += spaces_at_start(text.substr(stop));
    if (done < start) parts.push_back({-1, text.substr(done, start - done)});
    parts.push_back({TokenId{token.id}, {}});
    done = stop;
  }
  if (done < text.size()) parts.push_back({-1, text.substr(done)});
  return parts;
}

}  // namespace vlmzoo
