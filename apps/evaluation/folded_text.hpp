#pragma once

#include <string>
#include <string_view>

/// Text as answers are compared: without case, by characters.
namespace vlmzoo::app {

/// Case folded and composed (NFKC); `text` itself where it isn't UTF-8.
std::string folded(std::string_view text);

/// Where `word` first stands in `text` with no letter, mark, digit or '_' on either side; npos when nowhere. Both are
/// folded() already.
std::size_t find_word(std::string_view text, std::string_view word);

}  // namespace vlmzoo::app
