#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vlmzoo {

/// Text from a file as it may stand in a message: at most about `limit` bytes, valid UTF-8, no control characters.
std::string shortened(std::string_view text, std::size_t limit = 100);

}  // namespace vlmzoo
