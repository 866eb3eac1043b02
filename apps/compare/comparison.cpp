#include "compare/comparison.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <unordered_map>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::size_t kMostNamed = 10;  // ids in one message
constexpr std::int64_t kFewItems = 10;
constexpr std::int64_t kMostItems = 1'000'000'000'000;  // more than any data holds

[[noreturn]] void mismatch(const std::string& message) { throw Error(ErrorCode::kMismatch, "compare: " + message); }

/// "3 items: a, b, c", the first ones by name.
std::string listed(const std::vector<std::string>& ids) {
  const std::size_t named = std::min(ids.size(), kMostNamed);
  return fmt::format("{} item{}: {}{}", ids.size(), ids.size() == 1 ? "" : "s",
                     fmt::join(std::span(ids).first(named), ", "),
                     named < ids.size() ? fmt::format(" and {} more", ids.size() - named) : "");
}

/// For each class of `names` its place among `order`. Error: kMismatch when they aren't the same names.
std::vector<std::size_t> places(const std::vector<std::string>& names, const std::vector<std::string>& order) {
  std::vector<std::size_t> result;
  std::vector<bool> taken(order.size());
  for (const std::string& name : names) {
    const auto place = static_cast<std::size_t>(std::find(order.begin(), order.end(), name) - order.begin());
    if (place < order.size() && !taken[place]) {
      taken[place] = true;
      result.push_back(place);
    }
  }
  if (result.size() != names.size() || names.size() != order.size()) {
    mismatch(fmt::format(
        "the models have different classes: the baseline {}, the candidate {}; both need heads of the same classes "
        "(model.id2label, model.head)",
        fmt::join(order, ", "), fmt::join(names, ", ")));
  }
  return result;
}

using ById = std::unordered_map<std::string, const Prediction*>;

ById by_id(const ModelRun& run, const char* which) {
  ById result;
  for (const Prediction& prediction : run.predictions) {
    if (!result.emplace(prediction.sample_id, &prediction).second) {
      mismatch(fmt::format("the {} has the item {} twice", which, prediction.sample_id));
    }
  }
  return result;
}

std::vector<std::string> missing_from(const ById& others, const ModelRun& run) {
  std::vector<std::string> result;
  for (const Prediction& prediction : run.predictions) {
    if (!others.contains(prediction.sample_id)) result.push_back(prediction.sample_id);
  }
  return result;
}

/// Moves the classes of a prediction to where they are in `order`.
Prediction reordered(Prediction prediction, const std::vector<std::size_t>& order) {
  if (prediction.logits.size() != order.size()) {
    mismatch(fmt::format("the item {} has {} logits for {} classes", prediction.sample_id, prediction.logits.size(),
                         order.size()));
  }
  if (prediction.label < 0) {
    mismatch(fmt::format("the item {} has no label; expected one for every item", prediction.sample_id));
  }
  if (prediction.label >= std::ssize(order)) {
    mismatch(fmt::format("the item {} has the label {}; there are {} classes", prediction.sample_id, prediction.label,
                         order.size()));
  }
  std::vector<double> logits(order.size());
  for (std::size_t k = 0; k < order.size(); ++k) logits[order[k]] = prediction.logits[k];
  prediction.logits = std::move(logits);
  prediction.label = static_cast<std::int64_t>(order[static_cast<std::size_t>(prediction.label)]);
  return prediction;
}

/// The run without its predictions.
ModelRun frame_of(const ModelRun& run) {
  ModelRun frame = run;
  frame.predictions.clear();
  return frame;
}

void refuse_one_sided(const std::vector<std::string>& baseline_failed,
                      const std::vector<std::string>& candidate_failed) {
  mismatch(fmt::format("data that only one model could read can't be compared: {}{}{}; --skip-bad leaves them out",
                       baseline_failed.empty() ? "" : "the baseline failed on " + listed(baseline_failed),
                       baseline_failed.empty() || candidate_failed.empty() ? "" : "; ",
                       candidate_failed.empty() ? "" : "the candidate failed on " + listed(candidate_failed)));
}

/// Fills both runs with the items that both could read, and counts the others.
void pair_items(const ModelRun& baseline, const ModelRun& candidate, Comparison& comparison) {
  const ById first = by_id(baseline, "baseline"), second = by_id(candidate, "candidate");
  if (const auto ids = missing_from(second, baseline); !ids.empty()) {
    mismatch("only the baseline has " + listed(ids) + "; both models have to see the same items");
  }
  if (const auto ids = missing_from(first, candidate); !ids.empty()) {
    mismatch("only the candidate has " + listed(ids) + "; both models have to see the same items");
  }
  const std::vector<std::size_t> own = places(baseline.class_names, baseline.class_names);
  const std::vector<std::size_t> order = places(candidate.class_names, baseline.class_names);
  std::vector<std::string> baseline_failed, candidate_failed;
  for (const Prediction& one : baseline.predictions) {
    const Prediction& other = *second.at(one.sample_id);
    if (!one.error.empty() && !other.error.empty()) {
      ++comparison.unreadable;
    } else if (!one.error.empty()) {
      baseline_failed.push_back(fmt::format("{} ({})", one.sample_id, one.error));
    } else if (!other.error.empty()) {
      candidate_failed.push_back(fmt::format("{} ({})", other.sample_id, other.error));
    } else {
      comparison.baseline_run.predictions.push_back(reordered(one, own));
      comparison.candidate_run.predictions.push_back(reordered(other, order));
    }
  }
  comparison.skipped = std::ssize(baseline_failed) + std::ssize(candidate_failed);
  if (comparison.skipped > 0 && !comparison.options.skip_bad) refuse_one_sided(baseline_failed, candidate_failed);
  if (comparison.baseline_run.predictions.empty()) mismatch("no item is left that both models could read");
}

/// All that follows from the classes of both.
void add_statistics(Comparison& comparison) {
  const ComparisonOptions& options = comparison.options;
  std::vector<std::int64_t> labels, first, second;
  std::vector<std::uint8_t> first_right, second_right;
  for (std::size_t i = 0; i < comparison.baseline_run.predictions.size(); ++i) {
    const Prediction& one = comparison.baseline_run.predictions[i];
    const Prediction& other = comparison.candidate_run.predictions[i];
    if (one.label != other.label) {
      mismatch(fmt::format("the item {} is {} to the baseline and {} to the candidate", one.sample_id,
                           comparison.class_names()[static_cast<std::size_t>(one.label)],
                           comparison.class_names()[static_cast<std::size_t>(other.label)]));
    }
    labels.push_back(one.label);
    first.push_back(predicted_class(one));
    second.push_back(predicted_class(other));
    first_right.push_back(first.back() == one.label);
    second_right.push_back(second.back() == one.label);
    if (first.back() != second.back()) comparison.disagreements.push_back(i);
    if (first_right.back() > second_right.back()) comparison.baseline_only.push_back(i);
    if (first_right.back() < second_right.back()) comparison.candidate_only.push_back(i);
  }
  const std::int64_t classes = std::ssize(comparison.class_names());
  const ConfusionMatrix between = confusion_matrix(first, second, classes);
  comparison.agreement = accuracy(between);
  comparison.kappa = cohen_kappa(between);
  comparison.counts = paired_counts(first_right, second_right);
  comparison.per_class = class_differences(labels, first_right, second_right, classes, 1 - options.alpha);
  comparison.decision = decide(comparison.counts, options.margin, options.alpha);
  comparison.bootstrap =
      paired_bootstrap_interval(comparison.counts, {options.resamples, options.seed, 1 - options.alpha});
  comparison.mcnemar_p = mcnemar_exact(comparison.counts);
  if (comparison.decision.verdict == Verdict::kUndecided) {
    comparison.needed = needed_sample_size(comparison.counts, options.margin, /*power=*/0.8, options.alpha);
  }
}

void add_answers(Comparison& comparison) {
  std::vector<ComparedAnswer> items;
  for (std::size_t i = 0; i < comparison.baseline_run.predictions.size(); ++i) {
    const Prediction& one = comparison.baseline_run.predictions[i];
    if (one.expected_answer.empty()) continue;
    items.push_back({i, one.expected_answer, one.answer, comparison.candidate_run.predictions[i].answer});
  }
  comparison.answers = compare_answers(std::move(items), comparison.options.alpha);
}

void add_warnings(Comparison& comparison) {
  for (const auto& [which, run] :
       {std::pair{"baseline", &comparison.baseline_run}, {"candidate", &comparison.candidate_run}}) {
    if (!run->fresh_head) continue;
    comparison.warnings.push_back(
        fmt::format("The {}'s head is freshly initialised (untrained): its classes mean nothing.", which));
  }
  const auto& [margin, alpha, resamples, seed, skip_bad, answers] = comparison.options;
  const std::int64_t n = comparison.n(), fewest = fewest_items_for_equivalence(margin, alpha);
  if (n < kFewItems) {
    comparison.warnings.push_back(fmt::format(
        "{} item{} can't carry a conclusion: the verdict follows the rule, but McNemar's p can't fall below {:.2g}, "
        "the "
        "difference is known to within {:.0f} percentage points only, and percentiles of latency are the slowest "
        "items. Use at least {} items, better hundreds.",
        n, n == 1 ? "" : "s", std::min(1.0, std::ldexp(2.0, -static_cast<int>(n))),
        50 * (comparison.decision.interval.high - comparison.decision.interval.low), kFewItems));
  }
  if (fewest == kMostItems) {
    comparison.warnings.push_back(fmt::format("At a margin of {} the verdict can't be `equivalent`.", margin));
  } else if (n < fewest) {
    comparison.warnings.push_back(fmt::format(
        "With fewer than {} items the verdict can't be `equivalent` at a margin of {}, even if no item flips.", fewest,
        margin));
  }
  if (comparison.unreadable > 0) {
    comparison.warnings.push_back(fmt::format("{} item{} could be read by neither model and {} left out.",
                                              comparison.unreadable, comparison.unreadable == 1 ? "" : "s",
                                              comparison.unreadable == 1 ? "is" : "are"));
  }
  if (comparison.skipped > 0) {
    comparison.warnings.push_back(fmt::format("{} item{} that only one model could read {} left out (--skip-bad).",
                                              comparison.skipped, comparison.skipped == 1 ? "" : "s",
                                              comparison.skipped == 1 ? "is" : "are"));
  }
}

}  // namespace

Comparison compare(const ModelRun& baseline, const ModelRun& candidate, const ComparisonOptions& options) {
  Comparison comparison;
  comparison.options = options;
  comparison.baseline_run = frame_of(baseline);
  comparison.candidate_run = frame_of(candidate);
  comparison.candidate_run.class_names = baseline.class_names;
  pair_items(baseline, candidate, comparison);
  add_statistics(comparison);
  const EvaluateOptions evaluation{.bootstrap = {options.resamples, options.seed, 1 - options.alpha}};
  comparison.baseline = evaluate(comparison.baseline_run, evaluation);
  comparison.candidate = evaluate(comparison.candidate_run, evaluation);
  if (options.answers) add_answers(comparison);
  add_warnings(comparison);
  return comparison;
}

double throughput(const Evaluation& side) { return side.latency.mean > 0 ? 1000 / side.latency.mean : 0; }

std::string describe_rule(const ComparisonOptions& options) {
  const double wide = 100 * (1 - options.alpha), narrow = 100 * (1 - 2 * options.alpha);
  return fmt::format(
      "d = accuracy of the candidate − accuracy of the baseline, margin m = {0}. Intervals of d are Agresti-Min's for "
      "paired proportions (½ added to each cell); a paired bootstrap ({1} resamples, seed {2}) stands beside them. "
      "equivalent: the {3:g} % interval lies inside (−m, m); else better: the {4:g} % interval lies above 0; worse: it "
      "lies below 0; else undecided. Apart from it, replace: yes if the {3:g} % interval lies above −m, no if below "
      "−m, else undecided. McNemar's exact p = min(1, 2·P(X ≤ min(b, c))), X ~ Bin(b + c, ½), of the b and c items "
      "that "
      "only one model got right; 1 without any.",
      options.margin, options.resamples, options.seed, narrow, wide);
}

std::string describe_verdict(const Comparison& comparison) {
  const PairedDecision& decision = comparison.decision;
  const double d = comparison.counts.difference(), wide = 100 * (1 - comparison.options.alpha);
  std::string text = fmt::format(
      "The candidate is right on {:.2f} % of {} items, the baseline on {:.2f} %: a difference of {:+.2f} percentage "
      "points ({:g} % interval {:+.2f} to {:+.2f}).",
      100 * comparison.candidate.metrics.accuracy, comparison.n(), 100 * comparison.baseline.metrics.accuracy, 100 * d,
      wide, 100 * decision.interval.low, 100 * decision.interval.high);
  if (decision.verdict == Verdict::kUndecided) {
    text += comparison.needed
                ? fmt::format(" About {} items in all would decide, if shares stay as they are.", *comparison.needed)
                : " No number of items would decide at this margin, if shares stay as they are.";
  }
  return text;
}

std::int64_t fewest_items_for_equivalence(double margin, double alpha) {
  std::int64_t low = 0, high = kMostItems;
  const auto enough = [&](std::int64_t n) {
    return decide({.both = n}, margin, alpha).verdict == Verdict::kEquivalent;
  };
  if (!enough(high)) return high;
  while (high - low > 1) {
    const std::int64_t middle = std::midpoint(low, high);
    (enough(middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace vlmzoo::app
