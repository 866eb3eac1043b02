#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support.hpp"
#include "trace_comparison.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::test {
namespace {

using app::NamedTensors;
using Verdict = app::StageDifference::Verdict;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();

DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return DType::kF64;
    case at::kFloat:
      return DType::kF32;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kLong:
      return DType::kI64;
    case at::kInt:
      return DType::kI32;
    default:
      REQUIRE((tensor.scalar_type() == at::kBool));
      return DType::kBool;
  }
}

/// A trace file with these tensors.
SafetensorsFile file_of(const NamedTensors& tensors) {
  static const TemporaryFolder folder;
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) entries.push_back({name, dtype_of(tensor), tensor.sizes().vec(), 0, 0});
  SafetensorsWriter writer(folder / "trace.safetensors", entries);
  for (const auto& [name, tensor] : tensors) {
    writer.write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  writer.commit();
  return SafetensorsFile(folder / "trace.safetensors");
}

/// The one stage of a comparison of `run` with `reference`.
app::StageDifference compared(const at::Tensor& run, const at::Tensor& reference, double tolerance = 1e-4) {
  const auto comparison = app::compare_traces({{"logits", run}}, file_of({{"logits", reference}}), tolerance);
  REQUIRE(comparison.stages.size() == 1);
  return comparison.stages.front();
}

Verdict verdict(const at::Tensor& run, const at::Tensor& reference, double tolerance = 1e-4) {
  return compared(run, reference, tolerance).verdict;
}

/// A whole run: 7 pixels, 3 tokens of the prompt, 2 of the answer.
NamedTensors run() {
  return {{"pixel_values", at::arange(7, at::kFloat)},
          {"input_ids", at::tensor({5, 6, 7}, at::kLong).view({1, 3})},
          {"aspect_ratio_ids", at::tensor({6}, at::kLong)},
          {"vision_last_hidden_state", at::ones({2, 4})},
          {"image_embeds", at::ones({2, 3})},
          {"last_hidden_state", at::ones({1, 3, 3})},
          {"logits", at::arange(10, at::kFloat).view({1, 10})},
          {"generated_ids", at::tensor({8, 9}, at::kLong)}};
}

at::Tensor& named(NamedTensors& tensors, const std::string& name) {
  for (auto& [other, tensor] : tensors) {
    if (other == name) return tensor;
  }
  FAIL(name);
  return tensors.front().second;
}

std::string first_outside(const NamedTensors& tensors, const NamedTensors& reference) {
  const auto comparison = app::compare_traces(tensors, file_of(reference), 1e-4);
  const app::StageDifference* first = comparison.first_outside();
  return first == nullptr ? "" : first->name;
}

}  // namespace

TEST_CASE("two equal traces are within any tolerance, stage by stage in the order of the data") {
  NamedTensors shuffled = run();
  std::swap(shuffled[0], shuffled[6]);
  std::swap(shuffled[1], shuffled[5]);
  const auto comparison = app::compare_traces(shuffled, file_of(run()), 0);
  std::vector<std::string> names;
  for (const auto& stage : comparison.stages) {
    names.push_back(stage.name);
    CHECK(stage.verdict == Verdict::kWithin);
    CHECK(*stage.largest == 0);
    CHECK(stage.cosine.has_value() == !stage.name.ends_with("_ids"));
    if (stage.cosine) CHECK(*stage.cosine == doctest::Approx(1));
  }
  std::vector<std::string> flow;
  for (const auto& [name, tensor] : run()) flow.push_back(name);
  CHECK(names == flow);
  CHECK(comparison.first_outside() == nullptr);
}

TEST_CASE("a comparison measures the largest, mean and relative difference and the cosine") {
  const at::Tensor reference = at::tensor({3.0F, -4.0F, 0.0F, 0.0F}), got = at::tensor({3.0F, -4.0F, 1.0F, -3.0F});
  const auto stage = compared(got, reference);
  CHECK(*stage.largest == 3);
  CHECK(*stage.mean == 1);
  CHECK(*stage.relative == 0.75);
  CHECK(*stage.cosine == doctest::Approx(25 / (5 * std::sqrt(35.0))));
  CHECK(*compared(reference * 0.001, reference * 0).relative == doctest::Approx(0.004));  // small numbers: absolute
  CHECK(*compared(at::zeros({2}), at::zeros({2})).cosine == 1);
  CHECK(verdict(got, reference, 0.75) == Verdict::kWithin);
  CHECK(verdict(got, reference, 0.74) == Verdict::kAbove);
  // More elements than are compared at a time; the only difference is the last.
  at::Tensor many = at::zeros({3, 1 << 20});
  many[2][(1 << 20) - 1] = 2;
  CHECK(*compared(many, at::zeros({3, 1 << 20})).largest == 2);
  CHECK(compared(at::zeros({0}), at::zeros({0})).verdict == Verdict::kWithin);
}

TEST_CASE("the first stage that differs is the first in the order of the data") {
  NamedTensors changed = run();
  named(changed, "logits").add_(1);
  CHECK(first_outside(changed, run()) == "logits");
  named(changed, "image_embeds").add_(0.001);
  CHECK(first_outside(changed, run()) == "image_embeds");
  named(changed, "vision_last_hidden_state").add_(0.00005);
  CHECK(first_outside(changed, run()) == "image_embeds");
  named(changed, "aspect_ratio_ids").add_(1);
  CHECK(first_outside(changed, run()) == "aspect_ratio_ids");
}

TEST_CASE("integers have to be equal, however small the step") {
  const at::Tensor ids = at::tensor({1'000'000'007, 3}, at::kLong);
  CHECK(verdict(ids, ids + 1) == Verdict::kAbove);
  CHECK(verdict(ids, (ids + 1).to(at::kDouble)) == Verdict::kAbove);
  CHECK(verdict(ids + (1LL << 60), ids + (1LL << 60) + 1) == Verdict::kAbove);  // fp64 doesn't see it
  CHECK(verdict(ids, ids.to(at::kDouble)) == Verdict::kWithin);
  CHECK(verdict(ids, ids.to(at::kInt)) == Verdict::kWithin);
  CHECK(verdict(at::tensor({1, 0}, at::kLong), at::tensor({1, 0}, at::kLong).to(at::kBool)) == Verdict::kWithin);
}

TEST_CASE("what is not a number differs from everything; equal infinities do not") {
  const at::Tensor plain = at::tensor({1.0F, 2.0F, 3.0F});
  at::Tensor broken = plain.clone();
  broken[1] = kNan;
  for (const auto& [a, b] : {std::pair{broken, plain}, {plain, broken}, {broken, broken}}) {
    const auto stage = compared(a, b, 1e9);
    CHECK(stage.verdict == Verdict::kAbove);
    CHECK(std::isnan(*stage.largest));
  }
  at::Tensor infinite = plain.clone();
  infinite[1] = -kInfinity;
  CHECK(verdict(infinite, infinite, 0) == Verdict::kWithin);
  CHECK(verdict(infinite, plain, 1e9) == Verdict::kAbove);
  CHECK(verdict(plain, infinite, 1e9) == Verdict::kAbove);
  CHECK(verdict(-infinite, infinite, 1e9) == Verdict::kAbove);
  CHECK(verdict(infinite + at::tensor({0.0F, 0.0F, 1.0F}), infinite) == Verdict::kAbove);
}

TEST_CASE("a reference may have other floating types") {
  const at::Tensor values = at::arange(16, at::kFloat);
  for (const at::ScalarType type : {at::kDouble, at::kHalf, at::kBFloat16}) {
    CHECK(verdict(values, values.to(type), 0) == Verdict::kWithin);
  }
}

TEST_CASE("other shapes and missing stages are told; what only the run has is no fault") {
  const auto stage = compared(at::zeros({2, 3}), at::zeros({3, 2}));
  CHECK(stage.verdict == Verdict::kShape);
  CHECK(stage.shape == std::vector<std::int64_t>{2, 3});
  CHECK(stage.reference_shape == std::vector<std::int64_t>{3, 2});
  CHECK_FALSE(stage.largest.has_value());

  NamedTensors fewer = run();
  fewer.erase(fewer.begin() + 4);
  CHECK(first_outside(run(), fewer).empty());
  CHECK(first_outside(fewer, run()) == "image_embeds");
  const auto comparison = app::compare_traces(fewer, file_of(run()), 1e-4);
  CHECK(comparison.stages[4].verdict == Verdict::kMissing);
  CHECK(code_of([] {
          app::compare_traces(run(), file_of({{"lm_head.weight", at::zeros({2})}}), 1);
        }) == ErrorCode::kMismatch);
}

}  // namespace vlmzoo::test
