#include "trace_comparison.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/tensor_types.hpp"

namespace vlmzoo::app {
namespace {

using Verdict = StageDifference::Verdict;

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // elements that are compared at a time, in fp64

at::Tensor read_tensor(const SafetensorsFile& file, const TensorEntry& entry) {
  at::Tensor tensor = at::empty(entry.shape, scalar_type(entry.dtype));
  file.read(entry, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return tensor;
}

/// Place in the flow of data. What isn't listed is an input of the adapter's own.
std::size_t rank(const std::string& name) {
  constexpr std::array kFlow = {"pixel_values", "input_ids",         "",       "vision_last_hidden_state",
                                "image_embeds", "last_hidden_state", "logits", "generated_ids"};
  const auto found = std::find(kFlow.begin(), kFlow.end(), name);
  return static_cast<std::size_t>((found == kFlow.end() ? kFlow.begin() + 2 : found) - kFlow.begin());
}

/// What the comparison of two tensors adds up, over all its chunks.
struct Sums {
  double largest = 0, total = 0, reference = 0, product = 0, run_square = 0, reference_square = 0;
  bool equal = true;

  void add(const at::Tensor& run, const at::Tensor& expected) {
    const at::Tensor a = run.to(at::kDouble), b = expected.to(at::kDouble);
    const bool floating = run.is_floating_point() || expected.is_floating_point();
    const at::Tensor same = floating ? a.eq(b) : run.eq(expected);  // fp64 can't tell all int64 apart
    // Infinities of one sign are equal, though their difference is none.
    const at::Tensor difference = (a - b).abs().masked_fill(same, 0);
    equal = equal && same.all().item<bool>();
    largest = std::max(largest, difference.max().item<double>());
    total += difference.sum().item<double>();
    reference = std::max(reference, b.abs().nan_to_num(0.0, 0.0, 0.0).max().item<double>());
    product += a.dot(b).item<double>();
    run_square += a.dot(a).item<double>();
    reference_square += b.dot(b).item<double>();
  }

  double cosine() const {
    if (run_square == 0 && reference_square == 0) return 1;
    return product / std::max(std::sqrt(run_square) * std::sqrt(reference_square), 1e-300);
  }
};

void measure(const at::Tensor& run, const at::Tensor& reference, double tolerance, StageDifference& stage) {
  Sums sums;
  const at::Tensor a = run.flatten(), b = reference.flatten();
  for (std::int64_t first = 0; first < a.numel(); first += kChunk) {
    check_interrupt();
    const std::int64_t count = std::min(kChunk, a.numel() - first);
    sums.add(a.narrow(0, first, count), b.narrow(0, first, count));
  }
  const bool floating = run.is_floating_point() && reference.is_floating_point();
  stage.largest = std::isnan(sums.total) ? sums.total : sums.largest;  // max() passes NaNs over
  stage.mean = sums.total / static_cast<double>(std::max<std::int64_t>(1, a.numel()));
  stage.relative = *stage.largest / std::max(1.0, sums.reference);
  if (floating) stage.cosine = sums.cosine();
  const bool within = floating ? *stage.relative <= tolerance : sums.equal;
  stage.verdict = within ? Verdict::kWithin : Verdict::kAbove;
}

const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::kWithin:
      return "within";
    case Verdict::kAbove:
      return "above";
    case Verdict::kShape:
      return "other shape";
    case Verdict::kMissing:
      return "missing";
    case Verdict::kExtra:
      return "not in the reference";
  }
  return "";
}

}  // namespace

const StageDifference* TraceComparison::first_outside() const {
  const auto found = std::find_if(stages.begin(), stages.end(), [](const auto& stage) { return !stage.within(); });
  return found == stages.end() ? nullptr : &*found;
}

NamedTensors read_trace(const SafetensorsFile& file) {
  NamedTensors tensors;
  for (const TensorEntry& entry : file.entries()) tensors.emplace_back(entry.name, read_tensor(file, entry));
  return tensors;
}

TraceComparison compare_traces(const NamedTensors& run, const SafetensorsFile& reference, double tolerance) {
  std::map<std::pair<std::size_t, std::string>, StageDifference> stages;
  bool common = false;
  for (const auto& [name, tensor] : run) {
    StageDifference& stage = stages[{rank(name), name}];
    stage.name = name;
    stage.shape = stage.reference_shape = tensor.sizes().vec();
    const TensorEntry* entry = reference.find(name);
    if (entry == nullptr) {
      stage.verdict = Verdict::kExtra;
      continue;
    }
    common = true;
    stage.reference_shape = entry->shape;
    if (stage.shape == stage.reference_shape) {
      measure(tensor, read_tensor(reference, *entry), tolerance, stage);
    } else {
      stage.verdict = Verdict::kShape;
    }
  }
  if (!common) {
    throw Error(ErrorCode::kMismatch, fmt::format("{}: none of its {} tensors is a stage of the run; is it a trace?",
                                                  reference.path().string(), reference.entries().size()));
  }
  for (const TensorEntry& entry : reference.entries()) {
    const auto [place, fresh] = stages.try_emplace({rank(entry.name), entry.name});
    if (fresh) place->second = {entry.name, Verdict::kMissing, entry.shape, entry.shape, {}, {}, {}, {}};
  }
  TraceComparison result;
  result.tolerance = tolerance;
  for (auto& [place, stage] : stages) result.stages.push_back(std::move(stage));
  return result;
}

std::string to_table(const TraceComparison& comparison) {
  Table table({"stage", "shape", ">largest", ">mean", ">relative", ">cosine", ""});
  const auto number = [](const std::optional<double>& value) { return value ? fmt::format("{:.3g}", *value) : ""; };
  for (const StageDifference& stage : comparison.stages) {
    std::string shape = to_string(stage.shape);
    if (stage.verdict == Verdict::kShape) shape += ", expected " + to_string(stage.reference_shape);
    table.add({stage.name, shape, number(stage.largest), number(stage.mean), number(stage.relative),
               stage.cosine ? fmt::format("{:.6f}", *stage.cosine) : "", word(stage.verdict)});
  }
  const StageDifference* first = comparison.first_outside();
  return table.text() + (first == nullptr
                             ? fmt::format("\nall stages of the reference are within {:g}\n", comparison.tolerance)
                             : fmt::format("\nfirst stage that is not within {:g}: {} ({})\n", comparison.tolerance,
                                           harmless(first->name), word(first->verdict)));
}

OrderedJson to_json(const TraceComparison& comparison) {
  const auto number = [](const std::optional<double>& value) { return value ? OrderedJson(*value) : OrderedJson(); };
  OrderedJson stages = OrderedJson::array();
  for (const StageDifference& stage : comparison.stages) {
    stages.push_back({{"name", stage.name},
                      {"verdict", word(stage.verdict)},
                      {"shape", stage.shape},
                      {"reference_shape", stage.reference_shape},
                      {"largest", number(stage.largest)},
                      {"mean", number(stage.mean)},
                      {"relative", number(stage.relative)},
                      {"cosine", number(stage.cosine)}});
  }
  const StageDifference* first = comparison.first_outside();
  return {{"tolerance", comparison.tolerance},
          {"within", first == nullptr},
          {"first_above", first == nullptr ? OrderedJson() : OrderedJson(first->name)},
          {"stages", std::move(stages)}};
}

}  // namespace vlmzoo::app
