#include "pretokenize.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

// Letters and numbers of Unicode 15 and 16, which the reference's Oniguruma 6.9.10 knows and PCRE2 10.42 does not (CJK
// extensions H and I among them). With a newer PCRE2 they say nothing new.
constexpr std::string_view kNewLetters =
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85})"
    R"(\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7})"
    R"(\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155})"
    R"(\x{1DF25}-\x{1DF2A}\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
    R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";
constexpr std::string_view kNewNumbers =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139})"
    R"(\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";

/// Rewrites Oniguruma's dialect into PCRE2's. What the two read differently, or may, is refused: the patterns of
/// published byte-level tokenizers need none of it.
class Translation {
 public:
  Translation(std::string_view regex, const std::string& field) : regex_(regex), field_(field) {}

  std::string run() {
    while (at_ < regex_.size()) {
      if (starts("\\")) {
        escape();
      } else if (in_class_) {
        inside_class();
      } else {
        outside_class();
      }
    }
    return std::move(out_);
  }

 private:
  bool starts(std::string_view text) const { return regex_.substr(at_).starts_with(text); }

  void copy(std::size_t count) {
    out_ += regex_.substr(at_, count);
    at_ += count;
  }

  [[noreturn]] void refuse() const {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: the regex '{}' is not supported from byte {} on", field_,
                                                     shortened(regex_, 200), at_));
  }

  void escape() {
    const char kind = at_ + 1 < regex_.size() ? regex_[at_ + 1] : 'z';
    if (kind == 's' || kind == 'S') {
      // PCRE2's own \s has U+180E.
      out_ += kind == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
    } else if (kind == 'p' || kind == 'P') {
      property(kind == 'P');
    } else if (std::string_view(R"(rntdD\()[]{}|.*+?^$/-#!"%&,:;=@_~)").find(kind) != std::string_view::npos) {
      copy(2);
    } else {
      refuse();
    }
  }

  void property(bool negated) {
    const std::size_t close = regex_.find('}', at_);
    if (close == std::string_view::npos || regex_[at_ + 2] != '{') refuse();
    const auto name = regex_.substr(at_ + 3, close - at_ - 3);
    // General categories only: scripts mean Script_Extensions in PCRE2.
    const bool category = !name.empty() && name.size() <= 2 && name[0] >= 'A' && name[0] <= 'Z' &&
                          (name.size() == 1 || (name[1] >= 'a' && name[1] <= 'z'));
    if (!category) refuse();
    const std::string_view more = name == "L" ? kNewLetters : name == "N" ? kNewNumbers : std::string_view();
    if (more.empty() || (in_class_ && negated)) {
      out_ += regex_.substr(at_, close + 1 - at_);
    } else {
      const char* open = in_class_ ? "" : negated ? "[^" : "[";
      out_ += fmt::format("{}\\p{{{}}}{}{}", open, name, more, in_class_ ? "" : "]");
    }
    at_ = close + 1;
  }

  void inside_class() {
    if (starts("[") || starts("&&")) refuse();  // nested sets, intersections
    if (starts("]")) in_class_ = false;
    copy(1);
  }

  void outside_class() {
    if (starts("[")) {
      copy(starts("[^") ? 2 : 1);
      if (starts("]")) refuse();
      in_class_ = true;
    } else if (starts("(?")) {
      std::size_t length = 0;
      for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!"}) {
        if (starts(known)) length = known.size();
      }
      if (length == 0) refuse();
      copy(length);
    } else if (starts("^") || starts("$") || starts(".") || starts("(*") || starts("{,") || starts("}+") ||
               starts("}?")) {
      refuse();
    } else {
      copy(1);
    }
  }

  std::string_view regex_;
  const std::string& field_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string pcre2_message(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

/// Enough for a pattern that walks over a long run of spaces a few times, not enough for one that is exponential.
std::uint32_t match_limit(std::size_t text_size) {
  constexpr std::size_t kBase = 10'000'000;  // PCRE2's default
  return static_cast<std::uint32_t>(std::min<std::size_t>(kBase + 4 * text_size, 0xFFFFFFFF));
}

}  // namespace

const char* const kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void Pattern::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Pattern::Pattern(const std::string& regex, std::string field) : field_(std::move(field)) {
  const std::string translated = Translation(regex, field_).run();
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), PCRE2_UTF | PCRE2_UCP,
                            &error, &offset, nullptr));
  if (code_ == nullptr) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: the regex '{}' does not compile: {}", field_,
                                                     shortened(regex, 200), pcre2_message(error)));
  }
  pcre2_jit_compile(code_.get(),
                    PCRE2_JIT_COMPLETE);  // where this fails, matching is interpreted, with the same result
}

void Pattern::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> data(pcre2_match_data_create(1, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeMatch> context(pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) {
    throw Error(ErrorCode::kMemory, field_ + ": no memory to match the regex");
  }
  pcre2_set_match_limit(context.get(), match_limit(text.size()));
  std::size_t from = 0, done = 0;
  bool matched = false;
  while (from <= text.size()) {
    const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: the regex can't be matched at byte {} of the text: {}",
                                                       field_, from, pcre2_message(found)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    const std::size_t begin = bounds[0], end = bounds[1];
    if (begin == end && matched && end == done) {  // as Oniguruma's iterator: no empty match right after a match
      ++from;
      while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
      continue;
    }
    if (begin > done) pieces.push_back(text.substr(done, begin - done));
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
    done = from = end;
    matched = true;
  }
  if (done < text.size()) pieces.push_back(text.substr(done));
}

}  // namespace vlmzoo
