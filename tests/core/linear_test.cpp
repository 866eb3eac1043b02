#include "vlmzoo/nn/linear.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <cstdlib>
#include <limits>
#include <string>
#include <tuple>

#include "support.hpp"
#include "tensors.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/system.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

using namespace vlmzoo;
using test::filled, test::relative_difference;

namespace {

struct Case {
  Precision precision;
  const char* kernel;
  at::ScalarType activations;
  double tolerance;  ///< of max |y|: 24, 8 and 11 bits of the weights, 8 of both factors
};

/// No VNNI, or FBGEMM told to leave it alone: int8 has 16-bit activations then.
bool held_to_avx2() {
  const char* kernels = std::getenv("FBGEMM_ENABLE_INSTRUCTIONS");
  return !cpu_features().avx512_vnni || (kernels != nullptr && std::string(kernels) == "AVX2");
}

std::vector<Case> cases() {
  std::vector<Case> all = {{Precision::kFp32, "fp32", at::kFloat, 1e-5},
                           {Precision::kBf16, "bf16", at::kBFloat16, 0.01}};
  if (cpu_features().fbgemm()) {
    all.push_back({Precision::kFp16, "fbgemm-fp16", at::kFloat, 1e-3});
    all.push_back({Precision::kInt8, held_to_avx2() ? "avx2-int8" : "fbgemm-int8", at::kFloat, 0.03});
  } else {
    MESSAGE("skipped fp16 and int8: this processor has no AVX2");
  }
  return all;
}

at::Tensor exact(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {}) {
  return at::linear(x.to(at::kDouble), weight.to(at::kDouble), bias.defined() ? bias.to(at::kDouble) : bias);
}

}  // namespace

TEST_CASE("every precision is near the exact product, for any number of rows, any width, with and without bias") {
  for (const Case& kind : cases()) {
    CAPTURE(kind.kernel);
    for (const auto& [in, out] : {std::pair{37, 23},
                                  {23, 37},
                                  {64, 96},
                                  {131, 1},
                                  {1, 5},
                                  {1030, 197}}) {  // the last: several tiles of a packed matrix
      const at::Tensor weight = filled("weight", {out, in}), bias = filled("bias", {out});
      for (const bool biased : {false, true}) {
        const Linear layer = Linear::pack(weight, biased ? bias : at::Tensor(), kind.precision);
        REQUIRE(layer.in_features() == in);
        REQUIRE(layer.out_features() == out);
        REQUIRE(std::string(layer.kernel_name()) == kind.kernel);
        for (const std::int64_t rows : {1, 2, 7, 8, 9, 65}) {
          CAPTURE(in);
          CAPTURE(out);
          CAPTURE(rows);
          const at::Tensor x = filled("x", {rows, in}).to(kind.activations);
          const at::Tensor y = layer(x);
          CHECK((y.scalar_type() == kind.activations));
          CHECK(y.sizes() == at::IntArrayRef({rows, out}));
          CHECK(relative_difference(y, exact(x, weight, biased ? bias : at::Tensor())) <= kind.tolerance);
        }
      }
    }
  }
}

TEST_CASE(
    "weights in the order for many rows give the product, for any number of rows, with an activation or without") {
  const bool held_back = std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr;
  if (held_back || (!cpu_features().avx512_bf16 && !cpu_features().amx_bf16)) {
    const at::Tensor weight = filled("weight", {8, 4}).to(at::kBFloat16);
    CHECK(test::code_of([&] { Linear::for_many_rows(weight, {}); }) == ErrorCode::kUnsupported);
    MESSAGE("products skipped: this processor has none in bf16, or oneDNN is held back");
    return;
  }
  for (const auto& [in, out] : {std::pair{37, 23}, {64, 96}, {1, 5}, {1030, 197}}) {
    const at::Tensor weight = filled("weight", {out, in}).to(at::kBFloat16),
                     bias = filled("bias", {out}).to(at::kBFloat16);
    for (const bool biased : {false, true}) {
      const Linear layer = Linear::for_many_rows(weight, biased ? bias : at::Tensor());
      CHECK(std::string(layer.kernel_name()) == "onednn-bf16");
      CHECK(layer.bytes() == static_cast<std::uint64_t>(2 * (in * out + (biased ? out : 0))));
      for (const std::int64_t rows : {0, 1, 9, 65}) {
        CAPTURE(in);
        CAPTURE(rows);
        const at::Tensor x = filled("x", {rows, in}).to(at::kBFloat16);
        const at::Tensor expected = exact(x, weight, biased ? bias : at::Tensor());
        CHECK((layer(x).scalar_type() == at::kBFloat16));
        CHECK(layer(x).sizes() == expected.sizes());
        if (rows == 0) continue;
        CHECK(relative_difference(layer(x), expected) <= 0.01);
        for (const Activation activation :
             {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu, Activation::kRelu, Activation::kTanh}) {
          CHECK(relative_difference(layer(x, activation), activate(expected, activation)) <= 0.01);
        }
      }
    }
  }
  at::Tensor weight = filled("weight", {8, 4}).to(at::kBFloat16);
  const at::Tensor x = filled("x", {2, 3, 4}).to(at::kBFloat16);
  const Linear layer = Linear::for_many_rows(weight, {});
  const at::Tensor before = layer(x);
  weight.zero_();  // it was copied
  CHECK(layer(x).equal(before));
  CHECK(before.sizes() == at::IntArrayRef({2, 3, 8}));
}

TEST_CASE("a linear layer takes one row, more dimensions, strides and no rows at all") {
  for (const Case& kind : cases()) {
    CAPTURE(kind.kernel);
    const Linear layer = Linear::pack(filled("weight", {23, 37}), filled("bias", {23}), kind.precision);
    const at::Tensor x = filled("x", {6, 37}).to(kind.activations), y = layer(x);
    CHECK(layer(x.view({2, 3, 37})).equal(y.view({2, 3, 23})));
    CHECK(layer(x.t().contiguous().t()).equal(y));
    CHECK(layer(x.select(0, 4)).sizes() == at::IntArrayRef({23}));
    CHECK(layer(x.narrow(0, 0, 0)).sizes() == at::IntArrayRef({0, 23}));
    CHECK(layer(x.view({2, 3, 37}).narrow(1, 0, 0)).sizes() == at::IntArrayRef({2, 0, 23}));
  }
}

TEST_CASE("rows of another width are refused with both widths") {
  const Linear layer = Linear::pack(filled("weight", {23, 37}), {}, Precision::kFp32);
  try {
    layer(filled("x", {2, 36}));
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kMismatch);
    CHECK(std::string(error.what()).find("37") != std::string::npos);
    CHECK(std::string(error.what()).find("36") != std::string::npos);
  }
}

TEST_CASE("fp16 leaves weights beyond its range in fp32 and takes those at its end") {
  if (cases().size() < 4) return;
  at::Tensor weight = filled("weight", {9, 16});
  weight[3][5] = 65504.0F;
  CHECK(std::string(Linear::pack(weight, {}, Precision::kFp16).kernel_name()) == "fbgemm-fp16");
  weight[3][5] = -70000.0F;
  const Linear layer = Linear::pack(weight, {}, Precision::kFp16);
  CHECK(std::string(layer.kernel_name()) == "fp32");
  const at::Tensor x = filled("x", {12, 16});
  CHECK(relative_difference(layer(x), exact(x, weight)) <= 1e-5);
}

TEST_CASE("int8 does not saturate where all activations and weights are as large as they may be, of one sign") {
  if (cases().size() < 4) return;
  const at::Tensor weight = filled("weight", {40, 1024}, 0.25) + 0.75;  // products of 0.25 to 1, all added
  for (const std::int64_t rows : {1, 4, 33}) {
    const at::Tensor x = filled("x", {rows, 1024}, 0.25) + 0.75;
    const at::Tensor reference = exact(x, weight);
    CHECK(((Linear::pack(weight, {}, Precision::kInt8)(x) - reference) / reference).abs().max().item<double>() <= 0.02);
    const at::Tensor ones = at::ones({rows, 14336}),
                     all = Linear::pack(at::ones({40, 14336}), {}, Precision::kInt8)(ones);
    CHECK((all - 14336).abs().max().item<double>() <= 14336 * 1e-5);
  }
}

TEST_CASE("int8 gives every token a scale of its own, and a token of zeros the bias") {
  if (cases().size() < 4) return;
  const at::Tensor weight = filled("weight", {23, 64}), bias = filled("bias", {23});
  at::Tensor x = filled("x", {4, 64});
  x[1].zero_();
  x[2].mul_(1e-6);  // would vanish beside the others under one scale
  x[3].mul_(1e6);
  const at::Tensor biased = Linear::pack(weight, bias, Precision::kInt8)(x),
                   y = Linear::pack(weight, {}, Precision::kInt8)(x);
  CHECK(biased[1].equal(bias));
  CHECK(y[1].abs().max().item<double>() == 0);
  for (const std::int64_t row : {0, 2, 3}) CHECK(relative_difference(y[row], exact(x[row], weight)) <= 0.03);
  CHECK(Linear::pack(weight, bias, Precision::kInt8)(at::zeros({3, 64}))[2].equal(bias));
  CHECK(Linear::pack(at::zeros({5, 64}), {}, Precision::kInt8)(x).abs().max().item<double>() == 0);
}

TEST_CASE("int8 rounds the activations of up to 8 rows, as in decoding, to 13 bits or more") {
  if (cases().size() < 4) return;
  at::Tensor weight = filled("weight", {23, 1030}, /*limit=*/127).round();
  weight.select(1, 0).fill_(127);  // so that all are exact in int8
  const Linear layer = Linear::pack(weight, {}, Precision::kInt8);
  const at::Tensor x = filled("x", {8, 1030});
  for (const std::int64_t rows : {1, 2, 8}) {
    CHECK(relative_difference(layer(x.narrow(0, 0, rows)), exact(x.narrow(0, 0, rows), weight)) <= 1e-4);
  }
}

TEST_CASE("without VNNI int8 rounds activations to 16 bits, whatever the shape; threads don't change a number") {
  if (cases().size() < 4 || !held_to_avx2()) {
    MESSAGE("skipped: this processor has VNNI, or no AVX2");
    return;
  }
  const int threads = at::get_num_threads();
  for (const auto& [in, out] : {std::pair{2, 16}, {511, 15}, {512, 17}, {513, 33}, {1030, 400}}) {
    at::Tensor weight = filled("weight", {out, in}, /*limit=*/127).round();
    weight.select(1, 0).fill_(127);
    const Linear layer = Linear::pack(weight, filled("bias", {out}), Precision::kInt8);
    const at::Tensor x = filled("x", {301, in}, /*limit=*/5.9), expected = exact(x, weight, filled("bias", {out}));
    for (const std::int64_t rows : {5, 6, 7, 119, 120, 121, 241, 301}) {
      CAPTURE(in);
      CAPTURE(rows);
      const at::Tensor y = layer(x.narrow(0, 0, rows));
      CHECK(relative_difference(y, expected.narrow(0, 0, rows)) <= 5e-5);  // 8 bits: 4e-3
      for (const int count : {1, 3, 7}) {
        at::set_num_threads(count);
        CHECK(layer(x.narrow(0, 0, rows)).equal(y));
      }
      at::set_num_threads(threads);
    }
  }
}

TEST_CASE("int8 gives a row the same numbers among up to 8, and among more; without VNNI always") {
  if (cases().size() < 4) return;
  const Linear layer = Linear::pack(filled("weight", {96, 1100}), {}, Precision::kInt8);
  const at::Tensor x = filled("x", {40, 1100}), many = layer(x);
  for (const std::int64_t row : {0, 17, 31}) {
    const at::Tensor alone = layer(x.narrow(0, row, 1));
    CHECK(layer(x.narrow(0, row, 8)).narrow(0, 0, 1).equal(alone));
    CHECK(layer(x.narrow(0, row, 9)).narrow(0, 0, 1).equal(many.narrow(0, row, 1)));
    if (held_to_avx2()) CHECK(alone.equal(many.narrow(0, row, 1)));
  }
}

TEST_CASE("int8 keeps planted outliers of the activations exact, alone and among other rows") {
  if (cases().size() < 4) return;
  const at::Tensor weight = filled("weight", {96, 1100});
  const Linear layer = Linear::pack(weight, {}, Precision::kInt8);
  for (const double factor : {30.0, 60.0}) {
    CAPTURE(factor);
    at::Tensor x = filled("x", {40, 1100}, /*limit=*/1.73);  // root mean square 1
    const at::Tensor plain = layer(x);
    for (const std::int64_t input : {3, 511, 512, 1099}) x.select(1, input).mul_(factor);
    x[7][700] = factor;
    const at::Tensor y = layer(x), reference = exact(x, weight);
    CHECK(relative_difference(y, reference) <= 0.02);
    CHECK((y - reference).norm().item<double>() <= 0.02 * reference.norm().item<double>());
    for (const std::int64_t row : {0, 7}) {  // rows don't depend on their neighbours; few are more exact
      CHECK(relative_difference(layer(x.narrow(0, row, 9)), y.narrow(0, row, 9)) <= 1e-5);
      CHECK(relative_difference(layer(x.narrow(0, row, 1)), layer(x.narrow(0, row, 8)).narrow(0, 0, 1)) <= 1e-5);
      CHECK(relative_difference(layer(x.narrow(0, row, 1)), reference.narrow(0, row, 1)) <= 0.02);
    }
    x[7].zero_();
    x[7][700] = factor;
    CHECK(relative_difference(layer(x).narrow(0, 7, 1), exact(x.narrow(0, 7, 1), weight)) <= 0.02);
    // More outlier columns than are widened at once, each in a row or two.
    for (std::int64_t i = 0; i < 600; ++i) x[i % 40][i] = factor;
    CHECK(relative_difference(layer(x), exact(x, weight)) <= 0.02);
  }
}

TEST_CASE(
    "int8 shows what isn't finite as NaN: in a row of activations there alone, in a row of weights in its output") {
  if (cases().size() < 4) return;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    CAPTURE(bad);
    at::Tensor weight = filled("weight", {23, 64});
    const at::Tensor x = filled("x", {20, 64}), clean = Linear::pack(weight, {}, Precision::kInt8)(x);
    at::Tensor broken = x.clone();
    broken[5][17] = bad;
    const at::Tensor y = Linear::pack(weight, {}, Precision::kInt8)(broken);
    CHECK(y[5].isnan().all().item<bool>());
    CHECK(y.narrow(0, 0, 5).equal(clean.narrow(0, 0, 5)));
    CHECK(y.narrow(0, 6, 14).equal(clean.narrow(0, 6, 14)));
    CHECK(Linear::pack(weight, {}, Precision::kInt8)(broken.narrow(0, 5, 1)).isnan().all().item<bool>());

    weight[3][40] = bad;
    const Linear layer = Linear::pack(weight, {}, Precision::kInt8);
    for (const std::int64_t rows : {1, 20}) {
      const at::Tensor z = layer(x.narrow(0, 0, rows));
      CHECK(z.select(1, 3).isnan().all().item<bool>());
      CHECK(z.isnan().sum().item<std::int64_t>() == rows);
    }
  }
}

TEST_CASE("packed weights refuse gradients instead of losing them, and let inference pass") {
  for (const Case& kind : cases()) {
    CAPTURE(kind.kernel);
    const Linear layer = Linear::pack(filled("weight", {23, 37}), filled("bias", {23}), kind.precision);
    const at::Tensor x = filled("x", {3, 37}).to(kind.activations), expected = layer(x);
    const at::Tensor leaf = x.clone().requires_grad_(true);
    const bool packed = kind.precision == Precision::kFp16 || kind.precision == Precision::kInt8;
    if (packed) {
      try {
        layer(leaf);
        FAIL("not refused");
      } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::kUnsupported);
        CHECK(std::string(error.what()).find(kind.kernel) != std::string::npos);
      }
    } else {
      layer(leaf).sum().backward();
      CHECK(leaf.grad().defined());
    }
    const c10::AutoGradMode no_grad(false);
    CHECK(layer(leaf).equal(expected));
  }
}

TEST_CASE("a plain matrix of another type than the activations is used as it is, few rows and many") {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat}) {
    const at::Tensor weight = filled("weight", {4100, 19}).to(type);  // more than a block of rows
    const Linear layer = Linear::plain(weight, {});
    CHECK(layer.bytes() == weight.nbytes());
    for (const std::int64_t rows : {1, 8, 9}) {
      const at::Tensor x = filled("x", {rows, 19});
      CHECK(relative_difference(layer(x), exact(x, weight)) <= 1e-5);
    }
  }
  const at::Tensor weight = filled("weight", {7, 19}).to(at::kDouble), x = filled("x", {2, 19});
  CHECK(relative_difference(Linear::plain(weight, {})(x), exact(x, weight)) <= 1e-5);
}

TEST_CASE("gradients reach weight, bias and input, for few rows too") {
  for (const std::int64_t rows : {1, 12}) {
    const at::Tensor x = filled("x", {rows, 37}).requires_grad_(), weight = filled("weight", {23, 37}).requires_grad_(),
                     bias = filled("bias", {23}).requires_grad_(), slope = filled("slope", {rows, 23});
    (Linear::plain(weight, bias)(x) * slope).sum().backward();
    CHECK(relative_difference(weight.grad(), slope.t().matmul(x.detach())) <= 1e-5);
    CHECK(relative_difference(x.grad(), slope.matmul(weight.detach())) <= 1e-5);
    CHECK(relative_difference(bias.grad(), slope.sum(0)) <= 1e-5);
  }
}
