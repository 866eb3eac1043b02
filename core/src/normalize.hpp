#pragma once

#include <string>
#include <string_view>

namespace vlmzoo {

/// NFC of UTF-8 text, in O(n log n). `marks` is empty or holds one flag per byte of `text` (0 or 1); it comes back with
/// one per byte of the result. Where characters with different flags were normalised together, it is 1.
std::string to_nfc(std::string_view text, std::string& marks);

}  // namespace vlmzoo
