#include "normalize.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace vlmzoo {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

int combining_class(utf8proc_int32_t code_point) { return utf8proc_get_property(code_point)->combining_class; }

/// Marks that the reference's tables (Unicode 9) do not know as such: they stay where they are and join with nothing.
struct Range {
  utf8proc_int32_t first, last;
};
constexpr Range kYoungMarks[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
};

bool is_young_mark(utf8proc_int32_t code_point) {
  const auto* range = std::lower_bound(std::begin(kYoungMarks), std::end(kYoungMarks), code_point,
                                       [](const Range& a, utf8proc_int32_t b) { return a.last < b; });
  return range != std::end(kYoungMarks) && range->first <= code_point;
}

bool is_ascii(char byte) { return static_cast<unsigned char>(byte) < 0x80; }

void decompose(std::string_view text, CodePoints& out) {
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  constexpr std::size_t kLongest = 8;  // canonical decompositions have up to 4 code points
  std::size_t count = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = static_cast<utf8proc_ssize_t>(text.size());
  for (utf8proc_ssize_t at = 0; at < size;) {
    utf8proc_int32_t code_point = 0;
    at += std::max<utf8proc_ssize_t>(utf8proc_iterate(bytes + at, size - at, &code_point), 1);
    if (out.size() < count + kLongest) out.resize(2 * (count + kLongest));
    int boundary = 0;
    count += static_cast<std::size_t>(
        utf8proc_decompose_char(code_point, out.data() + count, kLongest, kOptions, &boundary));
  }
  out.resize(count);
}

/// Sorts every run of combining characters. utf8proc's own sorting is quadratic in the length of a run.
void order(CodePoints& code_points) {
  const auto is_starter = [](utf8proc_int32_t code_point) {
    return combining_class(code_point) == 0 || is_young_mark(code_point);
  };
  const auto before = [](utf8proc_int32_t a, utf8proc_int32_t b) { return combining_class(a) < combining_class(b); };
  for (auto at = code_points.begin(); at != code_points.end();) {
    const auto begin = std::find_if_not(at, code_points.end(), is_starter);
    at = std::find_if(begin, code_points.end(), is_starter);
    if (!std::is_sorted(begin, at, before)) std::stable_sort(begin, at, before);
  }
}

void append_nfc(std::string_view text, CodePoints& scratch, std::string& out) {
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  decompose(text, scratch);
  order(scratch);
  for (auto at = scratch.begin(); at != scratch.end();) {
    const auto end = std::find_if(at + 1, scratch.end(), is_young_mark);
    const auto count = utf8proc_normalize_utf32(&*at, static_cast<utf8proc_ssize_t>(end - at), kOptions);
    for (auto code_point = at; code_point != at + count; ++code_point) {
      utf8proc_uint8_t bytes[4];
      const auto size = utf8proc_encode_char(*code_point, bytes);
      out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(size));
    }
    at = end;
  }
}

}  // namespace

std::string to_nfc(std::string_view text, std::string& marks) {
  std::string out, out_marks;
  out.reserve(text.size());
  CodePoints scratch;
  for (std::size_t at = 0; at < text.size();) {
    // ASCII never changes, except that its last character may take the mark that follows.
    const auto wide = std::find_if_not(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), is_ascii);
    const auto first = static_cast<std::size_t>(wide - text.begin());
    const auto end = static_cast<std::size_t>(std::find_if(wide, text.end(), is_ascii) - text.begin());
    const std::size_t begin = first > at && first < text.size() ? first - 1 : first;
    out += text.substr(at, begin - at);
    const std::size_t from = out.size();
    append_nfc(text.substr(begin, end - begin), scratch, out);
    if (!marks.empty()) {
      out_marks += std::string_view(marks).substr(at, begin - at);
      const auto piece = std::string_view(marks).substr(begin, end - begin);
      const bool same = std::string_view(out).substr(from) == text.substr(begin, end - begin);
      if (same) {
        out_marks += piece;
      } else {
        out_marks.append(out.size() - from, piece.find('\1') != piece.npos ? '\1' : '\0');
      }
    }
    at = end;
  }
  marks = std::move(out_marks);
  return out;
}

}  // namespace vlmzoo
