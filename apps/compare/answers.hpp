#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/paired_statistics.hpp"

/// How near answers in words are to what was expected.
namespace vlmzoo::app {

/// Lower case, without punctuation and English articles, blanks as one space: SQuAD's normalisation (Rajpurkar et al.
/// 2016, evaluate-v1.1.py), with Unicode's case folding (NFKC) and punctuation instead of ASCII's. Text that is not
/// UTF-8 is left as it is.
std::string normalized_answer(std::string_view text);

/// F1 of the words that normalised answers share, repetitions counted: SQuAD's. 1 when both have none, 0 when one has.
double token_f1(std::string_view answer, std::string_view expected);

struct AnswerScores {
  double exact_match = 0, normalized_match = 0, token_f1 = 0;  ///< means
};

/// Both answers to one item.
struct ComparedAnswer {
  std::size_t item = 0;  ///< its place in the runs
  std::string expected, baseline, candidate;
};

struct AnswerComparison {
  std::vector<ComparedAnswer> items;
  AnswerScores baseline, candidate;
  PairedCounts normalized;  ///< who gave the expected answer after normalisation
  Interval difference;      ///< Agresti-Min of it, level 1 - alpha
  double mcnemar_p = 1;
};

/// Error: kMismatch without items.
AnswerComparison compare_answers(std::vector<ComparedAnswer> items, double alpha);

}  // namespace vlmzoo::app
