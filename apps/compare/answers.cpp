#include "compare/answers.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "evaluation/folded_text.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

bool is_punctuation(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return true;
    default:
      // ASCII's symbols are punctuation in string.punctuation of the original: $+<=>^`|~
      return c < 0x80 && utf8proc_category(c) >= UTF8PROC_CATEGORY_SM && utf8proc_category(c) <= UTF8PROC_CATEGORY_SO;
  }
}

bool is_space(utf8proc_int32_t c) {
  const utf8proc_category_t category = utf8proc_category(c);
  return (c >= 0x09 && c <= 0x0D) || category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

AnswerScores scores_of(const std::vector<ComparedAnswer>& items, std::string ComparedAnswer::*answer) {
  AnswerScores scores;
  for (const ComparedAnswer& item : items) {
    scores.exact_match += item.*answer == item.expected;
    scores.normalized_match += normalized_answer(item.*answer) == normalized_answer(item.expected);
    scores.token_f1 += token_f1(item.*answer, item.expected);
  }
  const auto n = static_cast<double>(items.size());
  return {scores.exact_match / n, scores.normalized_match / n, scores.token_f1 / n};
}

}  // namespace

std::string normalized_answer(std::string_view text) {
  const std::string all = folded(text);
  std::string kept;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(all.data());
  for (std::size_t at = 0; at < all.size();) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(all.size() - at), &c);
    if (length < 1) return all;  // not UTF-8
    if (is_space(c)) {
      kept += ' ';
    } else if (!is_punctuation(c)) {
      kept.append(all, at, static_cast<std::size_t>(length));
    }
    at += static_cast<std::size_t>(length);
  }
  std::string result;
  for (const std::string& word : words_of(kept)) {
    if (word == "a" || word == "an" || word == "the") continue;
    result += (result.empty() ? "" : " ") + word;
  }
  return result;
}

double token_f1(std::string_view answer, std::string_view expected) {
  const std::vector<std::string> got = words_of(normalized_answer(answer));
  const std::vector<std::string> wanted = words_of(normalized_answer(expected));
  if (got.empty() || wanted.empty()) return got.empty() && wanted.empty() ? 1 : 0;
  std::map<std::string, std::int64_t> left;
  for (const std::string& word : wanted) ++left[word];
  std::int64_t shared = 0;
  for (const std::string& word : got) {
    const auto found = left.find(word);
    if (found != left.end() && found->second-- > 0) ++shared;
  }
  return 2.0 * static_cast<double>(shared) / static_cast<double>(got.size() + wanted.size());
}

AnswerComparison compare_answers(std::vector<ComparedAnswer> items, double alpha) {
  if (items.empty()) throw Error(ErrorCode::kMismatch, "no item has an expected answer; answers can't be compared");
  AnswerComparison result;
  result.items = std::move(items);
  result.baseline = scores_of(result.items, &ComparedAnswer::baseline);
  result.candidate = scores_of(result.items, &ComparedAnswer::candidate);
  std::vector<std::uint8_t> baseline, candidate;
  for (const ComparedAnswer& item : result.items) {
    const std::string expected = normalized_answer(item.expected);
    baseline.push_back(normalized_answer(item.baseline) == expected);
    candidate.push_back(normalized_answer(item.candidate) == expected);
  }
  result.normalized = paired_counts(baseline, candidate);
  result.difference = agresti_min_interval(result.normalized, 1 - alpha);
  result.mcnemar_p = mcnemar_exact(result.normalized);
  return result;
}

}  // namespace vlmzoo::app
