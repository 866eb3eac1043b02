#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vlmzoo {

/// GPT-2's spelling of a byte as one printable character (UTF-8): vocabularies of byte-level BPE are written in it.
std::string_view spelled_byte(unsigned char byte);

/// Appends what `token` stands for: the bytes it spells, or its own UTF-8 when a character is outside the alphabet (the
/// reference's ByteLevel decoder does the same for added tokens).
void append_bytes_of(std::string_view token, std::string& out);

/// Appends `bytes` as UTF-8 with one U+FFFD for every maximal invalid part, as Rust's String::from_utf8_lossy does.
/// Returns how many bytes it took: without `final`, a sequence at the end that could still become valid is left.
std::size_t append_lossy(std::string_view bytes, bool final, std::string& out);

}  // namespace vlmzoo
