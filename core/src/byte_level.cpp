#include "byte_level.hpp"

#include <array>
#include <cstdint>

namespace vlmzoo {
namespace {

constexpr unsigned kAlphabetEnd = 256 + 68;  // 188 bytes stand for themselves, the other 68 are U+0100 and on

struct Alphabet {
  std::array<std::array<char, 2>, 256> spelling{};
  std::array<std::uint8_t, 256> length{};
  std::array<std::int16_t, kAlphabetEnd> byte{};  // by code point; -1: not in the alphabet
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (auto& byte : alphabet.byte) byte = -1;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const unsigned code_point = printable ? byte : next++;
    alphabet.byte[code_point] = static_cast<std::int16_t>(byte);
    if (code_point < 0x80) {
      alphabet.spelling[byte] = {static_cast<char>(code_point), '\0'};
      alphabet.length[byte] = 1;
    } else {
      alphabet.spelling[byte] = {static_cast<char>(0xC0 | (code_point >> 6)),
                                 static_cast<char>(0x80 | (code_point & 0x3F))};
      alphabet.length[byte] = 2;
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

unsigned char byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

/// What may follow a lead byte: the number of bytes after it, and the range of the first of them (Unicode, table 3-7).
struct Sequence {
  std::size_t more = 0;
  unsigned char low = 0x80, high = 0xBF;
};

Sequence sequence_of(unsigned char lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {};
}

}  // namespace

std::string_view spelled_byte(unsigned char byte) { return {kAlphabet.spelling[byte].data(), kAlphabet.length[byte]}; }

void append_bytes_of(std::string_view token, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t at = 0; at < token.size(); ++at) {
    unsigned code_point = byte_at(token, at);
    if (code_point >= 0x80) {
      const bool two = code_point >= 0xC2 && code_point <= 0xDF && at + 1 < token.size();
      code_point = two ? ((code_point & 0x1F) << 6) | (byte_at(token, ++at) & 0x3F) : kAlphabetEnd;
    }
    const int byte = code_point < kAlphabetEnd ? kAlphabet.byte[code_point] : -1;
    if (byte < 0) {
      out.resize(before);
      out += token;
      return;
    }
    out += static_cast<char>(byte);
  }
}

std::size_t append_lossy(std::string_view bytes, bool final, std::string& out) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const unsigned char lead = byte_at(bytes, at);
    if (lead < 0x80) {
      out += bytes[at++];
      continue;
    }
    auto [more, low, high] = sequence_of(lead);
    std::size_t end = at + 1;
    const std::size_t want = end + more;
    while (end < want && end < bytes.size() && byte_at(bytes, end) >= low && byte_at(bytes, end) <= high) {
      ++end;
      low = 0x80, high = 0xBF;
    }
    if (more > 0 && end == want) {
      out += bytes.substr(at, end - at);
    } else if (more > 0 && end == bytes.size() && !final) {
      return at;
    } else {
      out += "\uFFFD";
    }
    at = end;
  }
  return at;
}

}  // namespace vlmzoo
