#include "vlmzoo/nn/layers.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>

#include "support.hpp"
#include "tensors.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/system.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

using namespace vlmzoo;
using test::code_of;
using test::filled, test::relative_difference;

namespace {

/// softmax(q kᵀ / sqrt(d) + mask) v in double, a key head for every group of query heads.
at::Tensor explicit_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  const std::int64_t heads = query.size(0), tokens = query.size(1), keys = key.size(1), group = heads / key.size(0);
  std::vector<at::Tensor> mixed;
  for (std::int64_t head = 0; head < heads; ++head) {
    const at::Tensor k = key.select(0, head / group).to(at::kDouble), v = value.select(0, head / group).to(at::kDouble);
    at::Tensor scores =
        query.select(0, head).to(at::kDouble).matmul(k.t()) / std::sqrt(static_cast<double>(query.size(2)));
    if (causal) {
      for (std::int64_t q = 0; q < tokens; ++q)
        scores.select(0, q).narrow(0, keys - tokens + q + 1, tokens - 1 - q).fill_(-1e300);
    }
    mixed.push_back(scores.softmax(-1).matmul(v));
  }
  return at::cat(mixed, -1);
}

Json text_config() {
  return {{"hidden_size", 24},        {"num_hidden_layers", 2},  {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"intermediate_size", 40}, {"vocab_size", 50}};
}

DecoderConfig parse(const Json& json) { return DecoderConfig::parse({json, "config.json"}, /*qkv_bias=*/true); }

/// A decoder layer of random weights, with gradients if `trainable`.
struct TinyLayer {
  explicit TinyLayer(bool trainable) : config(parse(text_config())), rotary(config.rotary, config.head_dim, at::kCPU) {
    Weights::Source source;
    source.precision = {Precision::kFp32, Precision::kFp32, Precision::kFp32};
    source.trainable.language = trainable;
    Weights plan = Weights::plan(source);
    DecoderLayer(plan, config, "layers.0.", 0);
    Weights weights = Weights::load(plan);
    layer.emplace(weights, config, "layers.0.", 0);
    parameters = weights.parameters();
  }

  KvCache cache(std::int64_t batch) const {
    return {{1, batch, 16, config.kv_heads, config.head_dim}, at::kFloat, at::kCPU};
  }

  at::Tensor run(const at::Tensor& hidden, const std::vector<std::int64_t>& lengths, KvCache& into) const {
    std::vector<at::Tensor> positions = {at::zeros({0}, at::kLong)};
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const std::int64_t begin = into.length(static_cast<std::int64_t>(i));
      positions.push_back(at::arange(begin, begin + lengths[i], at::TensorOptions().dtype(at::kLong)));
    }
    const at::Tensor result = (*layer)(hidden, {lengths, rotary.tables(at::cat(positions))}, into);
    for (std::size_t i = 0; i < lengths.size(); ++i) into.advance(static_cast<std::int64_t>(i), lengths[i]);
    return result;
  }

  DecoderConfig config;
  RotaryEmbedding rotary;
  std::optional<DecoderLayer> layer;
  Parameters parameters;
};

}  // namespace

TEST_CASE("RMSNorm is x / sqrt(mean(x²) + eps) · weight, for any width and stride") {
  for (const std::int64_t width : {1, 15, 16, 17, 96}) {
    CAPTURE(width);
    const at::Tensor weight = filled("weight", {width}) + 1, x = filled("x", {2, 3, width}, 4);
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor expected = wide / (wide.square().mean(-1, /*keepdim=*/true) + 1e-5).sqrt() * weight;
    const RmsNorm norm{weight, 1e-5};
    CHECK(relative_difference(norm(x), expected) <= 1e-6);
    CHECK(relative_difference(norm(x.transpose(0, 1)), expected.transpose(0, 1)) <= 1e-6);
    CHECK(relative_difference(norm(x.clone().requires_grad_()), expected) <= 1e-6);  // the form that has a backward
    const RmsNorm narrow{weight.to(at::kBFloat16), 1e-5};
    CHECK((narrow(x.to(at::kBFloat16)).scalar_type() == at::kBFloat16));
    CHECK(relative_difference(narrow(x.to(at::kBFloat16)), expected) <= 0.016);  // three roundings to 8 bits
    CHECK(norm(x.narrow(0, 0, 0)).sizes() == at::IntArrayRef({0, 3, width}));
    CHECK(norm(at::zeros({1, width})).abs().max().item<double>() == 0);
  }
}

TEST_CASE("activations are transformers' and an unknown one says where it was asked for") {
  const at::Tensor one = at::ones({1});
  const std::map<std::string, double> values = {
      {"gelu", 0.8413447}, {"gelu_pytorch_tanh", 0.8411920}, {"silu", 0.7310586}, {"relu", 1.0}, {"tanh", 0.7615942}};
  for (const auto& [name, value] : values)
    CHECK(activate(one, parse_activation(name, "here")).item<double>() == doctest::Approx(value).epsilon(1e-6));
  CHECK_THROWS_WITH_AS(parse_activation("mish", "vision_config.hidden_act"),
                       doctest::Contains("vision_config.hidden_act"), Error);
}

TEST_CASE("row kernels round to bf16 as LibTorch does: ties, the largest numbers, NaN") {
  // A rotation whose second half is zero is a product with the cosine, which is any number here.
  const float most = std::numeric_limits<float>::max();
  const at::Tensor factors = at::cat({filled("x", {61}, 3), at::tensor({1.0F, most / 2, 0x1.02p0F})}).view({1, 64});
  for (const float value : {1.0F, 1.0F + 0x1p-7F, -3.0F, 0x1p-130F, std::numeric_limits<float>::quiet_NaN()}) {
    CAPTURE(value);
    const at::Tensor x = at::cat({at::full({1, 1, 64}, value), at::zeros({1, 1, 64})}, -1).to(at::kBFloat16);
    const at::Tensor expected = (x.narrow(2, 0, 64).to(at::kFloat) * factors).to(at::kBFloat16);
    const at::Tensor got = RotaryEmbedding::rotate(x, {factors, at::zeros_like(factors)}).narrow(2, 0, 64);
    CHECK(got.isnan().equal(expected.isnan()));
    CHECK(got.nan_to_num(0).equal(expected.nan_to_num(0)));
  }
  at::Tensor x = filled("x", {3, 70}, 3).to(at::kBFloat16);
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  const RmsNorm norm{filled("weight", {70}).to(at::kBFloat16), 1e-6};
  const at::Tensor wide = x.to(at::kFloat), scale = (wide.square().mean(-1, /*keepdim=*/true) + 1e-6).rsqrt();
  CHECK(norm(x)[1].isnan().all().item<bool>());
  for (const std::int64_t row : {0, 2})
    CHECK(relative_difference(norm(x)[row], (wide * scale * norm.weight.to(at::kFloat))[row]) <= 0.004);
}

TEST_CASE("rotary tables hold cos and sin of position · theta^(-2i/d), and a rotation turns the halves by them") {
  const std::int64_t width = 8, half = 4;
  const std::vector<std::int64_t> positions = {0, 1, 5, 1000};
  const RotaryEmbedding rotary({.theta = 10000}, width, at::kCPU);
  const auto tables = rotary.tables(at::tensor(positions));
  REQUIRE(tables.first.sizes() == at::IntArrayRef({4, half}));
  const at::Tensor x = filled("x", {4, 3, width});
  const at::Tensor fused = RotaryEmbedding::rotate(x, tables),
                   composed = RotaryEmbedding::rotate(x.clone().requires_grad_(), tables);
  // Heads out of a wider row, as the fused projection gives them.
  const at::Tensor strided = at::cat({filled("other", {4, 2, width}), x}, 1).narrow(1, 2, 3);
  CHECK(RotaryEmbedding::rotate(strided, tables).equal(fused));
  CHECK(relative_difference(fused, composed) <= 1e-6);
  for (std::int64_t t = 0; t < 4; ++t) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[static_cast<std::size_t>(t)]) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / width);
      CHECK(tables.first[t][i].item<double>() ==
            doctest::Approx(std::cos(angle)).epsilon(1e-4));  // an fp32 angle of 1000
      CHECK(tables.second[t][i].item<double>() == doctest::Approx(std::sin(angle)).epsilon(1e-4));
      for (std::int64_t head = 0; head < 3; ++head) {
        const double a = x[t][head][i].item<double>(), b = x[t][head][i + half].item<double>();
        CHECK(fused[t][head][i].item<double>() ==
              doctest::Approx(a * std::cos(angle) - b * std::sin(angle)).epsilon(1e-3));
        CHECK(fused[t][head][i + half].item<double>() ==
              doctest::Approx(b * std::cos(angle) + a * std::sin(angle)).epsilon(1e-3));
      }
    }
  }
}

TEST_CASE("llama3 scaling gives the frequencies of transformers") {
  // transformers 5.23, ROPE_INIT_FUNCTIONS["llama3"], head_dim 64, Llama 3.2's numbers.
  const std::vector<double> expected = {1,
                                        0.663601279,
                                        0.440366626,
                                        0.292227834,
                                        0.193922758,
                                        0.128687382,
                                        0.0853971019,
                                        0.0566696189,
                                        0.0376060307,
                                        0.0249554086,
                                        0.0165604409,
                                        0.0109895291,
                                        0.00729266508,
                                        0.00483942125,
                                        0.00321144611,
                                        0.00137189368,
                                        0.000524846022,
                                        0.000178507791,
                                        7.78465546e-05,
                                        5.16590699e-05,
                                        3.42810235e-05,
                                        2.2748929e-05,
                                        1.50962178e-05,
                                        1.00178686e-05,
                                        6.64786967e-06,
                                        4.41153452e-06,
                                        2.92749974e-06,
                                        1.94269251e-06,
                                        1.28917316e-06,
                                        8.55496921e-07,
                                        5.6770881e-07,
                                        3.7673226e-07};
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}};
  const Json old_style = {{"rope_theta", 500000.0}, {"rope_scaling", scaling}};
  Json parameters = scaling;
  parameters["rope_theta"] = 500000.0;
  for (const Json& config : {old_style, Json{{"rope_parameters", parameters}}}) {
    const RotaryEmbedding rotary(RotaryConfig::parse({config, "config.json"}), 64, at::kCPU);
    const auto [cos, sin] = rotary.tables(at::ones({1}, at::kLong));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto column = static_cast<std::int64_t>(i);
      CHECK(std::atan2(sin[0][column].item<double>(), cos[0][column].item<double>()) ==
            doctest::Approx(expected[i]).epsilon(1e-6));
    }
  }
}

TEST_CASE("other rotary scalings and incomplete ones are refused") {
  const auto parse_rope = [](const Json& scaling) {
    return RotaryConfig::parse({Json{{"rope_scaling", scaling}}, "config.json"});
  };
  CHECK(code_of([&] { parse_rope({{"rope_type", "yarn"}, {"factor", 4.0}}); }) == ErrorCode::kUnsupported);
  CHECK(code_of([&] { parse_rope({{"type", "linear"}, {"factor", 4.0}}); }) == ErrorCode::kUnsupported);
  CHECK(code_of([&] { parse_rope({{"rope_type", "llama3"}}); }) == ErrorCode::kConfig);
  CHECK(parse_rope(nullptr).theta == 10000.0);
  CHECK_FALSE(parse_rope({{"type", "dynamic"}, {"factor", 2.0}}).llama3);
}

TEST_CASE("attention is the softmax of its definition, grouped, causal behind earlier keys, and for one query") {
  for (const auto& [heads, kv_heads, tokens, keys] :
       {std::tuple{6, 2, 5, 5}, {6, 2, 5, 9}, {6, 6, 3, 4}, {6, 1, 1, 7}, {6, 2, 1, 1}, {4, 2, 1, 9}, {4, 2, 40, 70}}) {
    CAPTURE(tokens);
    CAPTURE(keys);
    CAPTURE(kv_heads);
    const at::Tensor query = filled("q", {heads, tokens, 8}, 3), key = filled("k", {kv_heads, keys, 8}, 3),
                     value = filled("v", {kv_heads, keys, 8});
    for (const bool causal : {true, false}) {
      const at::Tensor got = attention(query, key, value, causal);
      CHECK(got.sizes() == at::IntArrayRef({tokens, heads * 8}));
      CHECK(relative_difference(got, explicit_attention(query, key, value, causal)) <= 1e-5);
    }
  }
  const at::Tensor query = filled("q", {2, 3, 7, 8}, 3), key = filled("k", {2, 3, 7, 8}, 3),
                   value = filled("v", {2, 3, 7, 8});
  const at::Tensor batch = attention(query, key, value, /*causal=*/false);
  REQUIRE(batch.sizes() == at::IntArrayRef({2, 7, 24}));
  for (const std::int64_t b : {0, 1})
    CHECK(relative_difference(batch[b], explicit_attention(query[b], key[b], value[b], false)) <= 1e-5);
}

TEST_CASE("attention in blocks stays near its definition: blocks that don't fill up, grouped, causal, a batch, NaN") {
  if (!cpu_features().avx512_bf16 || cpu_features().amx_bf16)
    MESSAGE("our own bf16 kernel skipped: it is for processors with avx512_bf16, without AMX; LibTorch's is tested");
  if (!cpu_features().fbgemm() || cpu_features().avx512)
    MESSAGE("our own fp32 kernel skipped: it is for processors with AVX2, without AVX-512; LibTorch's is tested");
  at::ScalarType type = at::kBFloat16;
  double tolerance = 0.01;
  SUBCASE("bf16") {}
  SUBCASE("fp32") {
    type = at::kFloat;
    tolerance = 1e-5;
  }
  const auto made = [&](const std::string& name, std::vector<std::int64_t> shape) {
    return filled(name, shape, 3).to(type);
  };
  for (const auto& [heads, kv_heads, tokens, keys, width] : {std::tuple{4, 2, 16, 16, 8},
                                                             {6, 2, 33, 97, 8},
                                                             {2, 1, 70, 130, 10},
                                                             {3, 3, 64, 64, 80},
                                                             {2, 2, 17, 1025, 64},
                                                             {4, 2, 40, 9, 8},
                                                             {2, 1, 15, 20, 8},
                                                             {2, 1, 20, 20, 9}}) {
    CAPTURE(tokens);
    CAPTURE(keys);
    const at::Tensor query = made("q", {tokens, heads, width}).transpose(0, 1),
                     key = made("k", {keys, kv_heads, width}).transpose(0, 1),
                     value = made("v", {kv_heads, keys, width});
    for (const bool causal : {true, false}) {
      if (causal && keys < tokens) continue;
      at::set_num_threads(5);
      const at::Tensor shared = attention(query, key, value, causal);
      at::set_num_threads(1);
      const at::Tensor got = attention(query, key, value, causal);
      const bool blocks = type == at::kBFloat16 || (cpu_features().fbgemm() && !cpu_features().avx512 && tokens >= 16);
      if (blocks) CHECK(shared.equal(got));  // MKL's products may depend on the threads
      REQUIRE((got.scalar_type() == type));
      CHECK(got.sizes() == at::IntArrayRef({tokens, heads * width}));
      CHECK(relative_difference(got, explicit_attention(query, key, value, causal)) <= tolerance);
    }
    const auto twice = [](const at::Tensor& x) { return at::stack({x, x.flip(1)}); };
    if (heads == kv_heads) {
      const at::Tensor batch = attention(twice(query), twice(key), twice(value), /*causal=*/false);
      for (const std::int64_t b : {0, 1}) {
        const auto of = [b](const at::Tensor& x) { return b == 0 ? x : x.flip(1); };
        CHECK(relative_difference(batch[b], explicit_attention(of(query), of(key), of(value), false)) <= tolerance);
      }
    }
  }
  // Scores far apart: what earlier blocks of keys added up to is scaled down to nothing.
  const at::Tensor far = made("q", {2, 20, 8}) * 30, keys = made("k", {2, 700, 8}), values = made("v", {2, 700, 8});
  CHECK(relative_difference(attention(far, keys, values, false), explicit_attention(far, keys, values, false)) <=
        10 * tolerance);
  const at::Tensor key = made("k", {1, 80, 8}), value = made("v", {1, 80, 8});
  at::Tensor query = made("q", {1, 40, 8}).clone();
  query[0][5] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor bad = attention(query, key, value, /*causal=*/false).isnan().all(-1);
  CHECK(bad.sum().item<std::int64_t>() == 1);  // not hidden, and no other row's
  CHECK(bad[5].item<bool>());
}

TEST_CASE("a cache grows by sequence, returns all it holds and refuses what is too much") {
  KvCache cache({2, 2, 4, 3, 8}, at::kFloat, at::kCPU);
  CHECK(cache.bytes() == 2 * 2 * 2 * 4 * 3 * 8 * sizeof(float));
  const at::Tensor key = filled("k", {3, 3, 8}), value = filled("v", {3, 3, 8}), more = filled("more", {1, 3, 8});
  for (const std::int64_t layer : {0, 1}) {
    const auto [keys, values] = cache.append(layer, 1, key, value);
    CHECK(keys.equal(key.transpose(0, 1)));
    CHECK(values.equal(value.transpose(0, 1)));
    CHECK(cache.length(1) == 0);
  }
  cache.advance(1, 3);
  CHECK(cache.length(0) == 0);
  CHECK(cache.length(1) == 3);
  CHECK_THROWS_WITH_AS(cache.append(0, 1, key.narrow(0, 0, 2), value.narrow(0, 0, 2)),
                       doctest::Contains("a cache for 4 tokens holds 3"), Error);
  CHECK(code_of([&] { cache.append(0, 1, key.narrow(0, 0, 2), value.narrow(0, 0, 2)); }) == ErrorCode::kMismatch);
  const auto [keys, values] = cache.append(0, 1, more, more);
  CHECK(keys.equal(at::cat({key, more}).transpose(0, 1)));
  CHECK(cache.append(0, 0, more, more).first.equal(more.transpose(0, 1)));
}

TEST_CASE("packing drops padding wherever it stands, and unpacking puts zeros there") {
  KvCache cache({1, 4, 20, 1, 2}, at::kFloat, at::kCPU);
  cache.advance(1, 10);
  const at::Tensor ids = at::tensor({0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0}, at::kLong).view({4, 4});
  const at::Tensor mask = ids.gt(0);  // padding on the left, none, on the right, nothing else
  const PackedTokens tokens = pack_tokens(ids, mask, cache);
  CHECK(tokens.lengths == std::vector<std::int64_t>{2, 4, 1, 0});
  CHECK(tokens.ids.equal(at::arange(1, 8, at::TensorOptions().dtype(at::kLong))));
  CHECK(tokens.positions.equal(at::tensor({0, 1, 10, 11, 12, 13, 0}, at::kLong)));

  const at::Tensor rows = tokens.ids.to(at::kFloat).unsqueeze(1).expand({7, 3});
  CHECK(unpack_rows(rows, tokens).equal(ids.to(at::kFloat).unsqueeze(2).expand({4, 4, 3})));
  CHECK(last_rows(rows, tokens, 1).select(2, 0).equal(at::tensor({2.0F, 6.0F, 7.0F, 0.0F}).view({4, 1})));
  CHECK(last_rows(rows, tokens, 2)
            .select(2, 0)
            .equal(at::tensor({1.0F, 2.0F, 5.0F, 6.0F, 0.0F, 7.0F, 0.0F, 0.0F}).view({4, 2})));
  CHECK(last_rows(rows, tokens, 6).sizes() == at::IntArrayRef({4, 6, 3}));

  const PackedTokens whole = pack_tokens(ids, {}, cache);
  CHECK(whole.ids.equal(ids.flatten()));
  CHECK(whole.lengths == std::vector<std::int64_t>(4, 4));
  CHECK_FALSE(whole.index.defined());
  CHECK(code_of([&] { pack_tokens(ids.narrow(0, 0, 3), {}, cache); }) == ErrorCode::kMismatch);
}

TEST_CASE("a decoder layer gives a sequence the same in a batch, alone, and token by token") {
  const TinyLayer tiny(/*trainable=*/false);
  const at::Tensor hidden = filled("hidden", {8, 24});
  KvCache both = tiny.cache(3), first = tiny.cache(1), second = tiny.cache(1), stepwise = tiny.cache(1);
  const at::Tensor batch = tiny.run(hidden, {3, 0, 5}, both);
  CHECK(relative_difference(tiny.run(hidden.narrow(0, 0, 3), {3}, first), batch.narrow(0, 0, 3)) <= 1e-5);
  CHECK(relative_difference(tiny.run(hidden.narrow(0, 3, 5), {5}, second), batch.narrow(0, 3, 5)) <= 1e-5);
  for (std::int64_t i = 3; i < 8; ++i)
    CHECK(relative_difference(tiny.run(hidden.narrow(0, i, 1), {1}, stepwise), batch.narrow(0, i, 1)) <= 1e-5);
  CHECK(tiny.run(hidden.narrow(0, 0, 0), {0, 0, 0}, both).sizes() == at::IntArrayRef({0, 24}));
}

TEST_CASE("gradients of a batch through a decoder layer are the sum of its sequences' gradients") {
  const TinyLayer tiny(/*trainable=*/true);
  const at::Tensor hidden = filled("hidden", {8, 24}), slope = filled("slope", {8, 24});
  const auto gradients_of = [&](std::int64_t first, const std::vector<std::int64_t>& lengths) {
    std::int64_t count = 0;
    for (const std::int64_t length : lengths) count += length;
    for (const Trainable& parameter : tiny.parameters.trainable) parameter.value.mutable_grad().reset();
    const at::Tensor x = hidden.narrow(0, first, count).clone().requires_grad_();
    KvCache cache = tiny.cache(static_cast<std::int64_t>(lengths.size()));
    const at::Tensor y = tiny.run(x, lengths, cache);
    (y * slope.narrow(0, first, count)).sum().backward();
    std::vector<at::Tensor> gradients = {x.grad().clone()};
    for (const Trainable& parameter : tiny.parameters.trainable) {
      REQUIRE_MESSAGE(parameter.value.grad().defined(), parameter.names.front());
      gradients.push_back(parameter.value.grad().clone());
    }
    return gradients;
  };
  REQUIRE(tiny.parameters.trainable.size() == 7);  // two norms, q k v with bias, o, gate and up, down
  const auto batch = gradients_of(0, {3, 5}), first = gradients_of(0, {3}), second = gradients_of(3, {5});
  CHECK(relative_difference(batch[0], at::cat({first[0], second[0]})) <= 1e-5);
  for (std::size_t i = 1; i < batch.size(); ++i) {
    CHECK(batch[i].abs().max().item<double>() > 0);
    CHECK(relative_difference(batch[i], first[i] + second[i]) <= 1e-5);
  }

  // The fused kernels, which run without gradients, give the same numbers.
  KvCache with = tiny.cache(2), without = tiny.cache(2);
  const at::Tensor differentiable = tiny.run(hidden, {3, 5}, with).detach();
  const c10::AutoGradMode no_grad(false);
  CHECK(relative_difference(tiny.run(hidden, {3, 5}, without), differentiable) <= 1e-5);
  const at::Tensor next = hidden.narrow(0, 0, 2);  // and both caches hold the same
  CHECK(relative_difference(tiny.run(next, {1, 1}, with), tiny.run(next, {1, 1}, without)) <= 1e-5);
}

TEST_CASE("text configurations that fit no decoder are refused") {
  const auto with = [](const char* key, const Json& value) {
    Json json = text_config();
    json[key] = value;
    return code_of([&] { parse(json); });
  };
  CHECK(parse(text_config()).head_dim == 6);
  CHECK(with("num_key_value_heads", 3) == ErrorCode::kConfig);
  CHECK(with("hidden_size", 25) == ErrorCode::kConfig);
  CHECK(with("hidden_size", 20) == ErrorCode::kConfig);  // five numbers per head: odd
  CHECK(with("hidden_size", std::int64_t{1} << 40) == ErrorCode::kConfig);
  CHECK(with("num_hidden_layers", -1) == ErrorCode::kConfig);
  CHECK(with("num_attention_heads", 0) == ErrorCode::kConfig);
  CHECK(with("hidden_act", "gelu") == ErrorCode::kUnsupported);
}
