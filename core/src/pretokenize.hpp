#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace vlmzoo {

/// The regex of the reference's ByteLevel pre-tokenizer (GPT-2).
extern const char* const kGpt2Pattern;

/// A regular expression in Oniguruma's dialect, as far as PCRE2 reads it the same way. Immutable.
class Pattern {
 public:
  /// `field` names the place in the file for messages. Error: kUnsupported for what does not compile or would mean
  /// something else in PCRE2.
  Pattern(const std::string& regex, std::string field);

  /// Appends the matches in `text` (valid UTF-8) and what lies between them, in order, without empty ones: the
  /// reference's "Isolated" split. Error: kUnsupported when a match needs more work than PCRE2 allows.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::string field_;
};

}  // namespace vlmzoo
