#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compare/answers.hpp"
#include "evaluation/evaluation.hpp"
#include "evaluation/predictions.hpp"
#include "vlmzoo/metrics.hpp"
#include "vlmzoo/paired_statistics.hpp"

/// "May I replace the baseline by the candidate?" From what both predicted for the same items; nothing is read or run
/// here.
namespace vlmzoo::app {

struct ComparisonOptions {
  double margin = 0.02, alpha = 0.05;  ///< of the rule, see decide()
  std::int64_t resamples = 10'000;     ///< of each bootstrap
  std::uint64_t seed = 0;              ///< of each bootstrap
  bool skip_bad = false;               ///< leave out what one model couldn't read; else it is an error
  bool answers = false;                ///< answers were asked for
};

struct Comparison {
  ComparisonOptions options;
  ModelRun baseline_run, candidate_run;  ///< the same items in the same order, classes in the baseline's order
  Evaluation baseline, candidate;        ///< of these
  PairedCounts counts;
  PairedDecision decision;
  Interval bootstrap;  ///< of the accuracy difference, level 1 - alpha
  double mcnemar_p = 1;
  double agreement = 0, kappa = 0;     ///< of the two models' classes with each other
  std::optional<std::int64_t> needed;  ///< items in all that would decide; none when decided, or none would
  std::vector<ClassDifference> per_class;
  std::vector<std::size_t> baseline_only, candidate_only;  ///< flips: items that one alone has right
  std::vector<std::size_t> disagreements;                  ///< items that the models put into different classes
  std::optional<AnswerComparison> answers;                 ///< of items with an expected answer
  std::int64_t unreadable = 0;                             ///< items that neither model could read
  std::int64_t skipped = 0;                                ///< items that one of them couldn't, left out by skip_bad
  std::vector<std::string> warnings;                       ///< what qualifies the verdict, in whole sentences

  std::int64_t n() const { return counts.n(); }
  const std::vector<std::string>& class_names() const { return baseline_run.class_names; }
};

/// Pairs the runs by sample_id. Classes may come in another order, labels are matched by name. Errors, kMismatch: other
/// class names; items, labels or broken pictures that only one run has; an item twice or without a label; nothing left
/// to compare.
Comparison compare(const ModelRun& baseline, const ModelRun& candidate, const ComparisonOptions& options = {});

/// Pictures per second, one at a time; 0 when nothing was timed.
double throughput(const Evaluation& side);

/// The rule by which `decision` was made, with its numbers, as one paragraph.
std::string describe_rule(const ComparisonOptions& options);

/// What the verdict means, in one or two sentences with the numbers.
std::string describe_verdict(const Comparison& comparison);

/// The fewest items of which `equivalent` can be the verdict: when no item flips.
std::int64_t fewest_items_for_equivalence(double margin, double alpha);

}  // namespace vlmzoo::app
