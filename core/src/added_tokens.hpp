#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/tokenizer.hpp"

namespace vlmzoo {

/// An entry of `added_tokens`.
struct AddedToken {
  std::string content;
  std::uint32_t id = 0;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

/// Part of a text: an added token, or (id -1) text between.
struct TextPart {
  TokenId id;
  std::string_view text;
};

/// Finds added tokens in text: the leftmost first, of those the longest, none overlapping. Immutable.
class AddedTokenFinder {
 public:
  struct Entry {
    std::string pattern;  // what to look for: the content, or its normalised form
    AddedToken token;
  };

  /// Patterns are not empty and differ.
  explicit AddedTokenFinder(std::vector<Entry> entries);

  /// Cuts `text`. `marks` is empty or has one flag per byte; a token that covers a byte with flag 1 is only seen when
  /// its id is in `usable`.
  std::vector<TextPart> cut(std::string_view text, std::string_view marks, std::span<const TokenId> usable) const;

 private:
  const Entry* longest(std::string_view text, std::string_view marks, std::span<const TokenId> usable,
                       std::size_t at) const;

  std::vector<Entry> entries_;                 // sorted by pattern
  std::array<std::size_t, 257> first_byte_{};  // where the patterns with this first byte begin
};

}  // namespace vlmzoo
