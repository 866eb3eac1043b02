#include "vlmzoo/weights.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>

#include <fstream>
#include <optional>
#include <string>

#include "support.hpp"
#include "tensors.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/system.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

using namespace vlmzoo;
using test::code_of;
using test::filled, test::relative_difference;

namespace {

using Shape = std::vector<std::int64_t>;

struct Named {
  std::string name;
  at::Tensor tensor;
};

DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16:
      return DType::kBF16;
    case at::kHalf:
      return DType::kF16;
    case at::kLong:
      return DType::kI64;
    default:
      return DType::kF32;
  }
}

Checkpoint write(const std::filesystem::path& folder, const std::vector<Named>& tensors) {
  std::vector<TensorEntry> entries;
  for (const Named& named : tensors)
    entries.push_back({named.name, dtype_of(named.tensor), named.tensor.sizes().vec()});
  SafetensorsWriter writer(folder / "model.safetensors", entries);
  for (const Named& named : tensors) {
    const at::Tensor whole = named.tensor.contiguous();
    writer.write({static_cast<const std::byte*>(whole.const_data_ptr()), whole.nbytes()});
  }
  writer.commit();
  return Checkpoint(folder);
}

RolePrecision all_of(Precision precision) { return {precision, precision, precision}; }

Weights::Source source_of(const Checkpoint* checkpoint, Precision precision = Precision::kFp32) {
  Weights::Source source;
  source.checkpoint = checkpoint;
  source.precision = all_of(precision);
  return source;
}

/// What check() says; empty: nothing.
std::string complaint(const Weights& weights) {
  try {
    weights.check();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kMismatch);
    return error.what();
  }
  return "";
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("the formula gives the values of docs/init_formula.md, from any element on") {
  const struct {
    const char* name;
    Shape shape;
    std::vector<float> values;
  } rows[] = {{"a.weight", {2, 3}, {0x1.4cea8p-4F, 0x1.7e24d8p-2F, 0x1.cfcf9p-3F, 0x1.293d7p-1F}},
              {"norm.weight", {4}, {0x1.c2c17cp-1F, 0x1.09290ep+0F, 0x1.136648p+0F, 0x1.aa13e0p-1F}},
              {"a.bias", {4}, {-0x1.589fe8p-4F, -0x1.44c24p-4F, -0x1.15186cp-4F, -0x1.2d589p-4F}},
              {"ls1", {4}, {0x1.3afa78p-1F, 0x1.8851fap-2F, 0x1.6df6dap-1F, 0x1.390918p-1F}},
              {"cls", {1, 1, 4}, {-0x1.7622ap-5F, -0x1.39ba8p-2F, -0x1.b21a9cp-2F, -0x1.55cf5p-4F}}};
  for (const auto& row : rows) {
    CAPTURE(row.name);
    std::vector<float> values(4), tail(2);
    fill_formula(row.name, row.shape, /*seed=*/7, 0, values);
    CHECK(values == row.values);
    fill_formula(row.name, row.shape, /*seed=*/7, 2, tail);
    CHECK(tail == std::vector<float>(values.begin() + 2, values.end()));
  }
}

TEST_CASE("500 wrong tensors of each kind are counted, the first ones named, in a message one can read") {
  const test::TemporaryFolder folder;
  const std::string layer = "language_model.model.layers.", tail = ".self_attn.q_proj.weight";
  std::vector<Named> tensors;
  const at::Tensor one = filled("x", {1, 2});
  for (int i = 0; i < 500; ++i) tensors.push_back({layer + std::to_string(i) + tail, one});
  for (int i = 0; i < 500; ++i) tensors.push_back({"unexpected." + std::to_string(i) + tail, one});
  tensors.push_back({"an\x1b[31m escape", one});
  const Checkpoint checkpoint = write(folder.path(), tensors);
  Weights plan = Weights::plan(source_of(&checkpoint));
  for (int i = 0; i < 500; ++i) {
    plan.tensor(Role::kLanguage, "missing." + std::to_string(i) + tail, {4096, 4096});
    plan.tensor(Role::kLanguage, layer + std::to_string(i) + tail, {4096, 4096});
  }
  const std::string text = complaint(plan);
  INFO(text);
  CHECK(text.size() < 4000);
  CHECK(text.find("500 missing") != std::string::npos);
  CHECK(text.find("501 unexpected") != std::string::npos);
  CHECK(text.find("500 of another shape") != std::string::npos);
  CHECK(text.find("layers.0.self_attn.q_proj.weight: expected [4096, 4096], got [1, 2]") != std::string::npos);
  CHECK(text.find('\x1b') == std::string::npos);
  for (const std::string start : {"    missing.", "    unexpected.", "    language_model."}) {
    CHECK(count_of(text, start) >= 5);
    CHECK(count_of(text, start) <= 20);
  }
  CHECK(count_of(text, " more") == 3);
}

TEST_CASE("a tensor of integers, a missing bias and a leftover are errors; an ignored leftover is not") {
  const test::TemporaryFolder folder;
  const Checkpoint checkpoint = write(folder.path(), {{"integers", filled("x", {2, 2}).to(at::kLong)},
                                                      {"proj.weight", filled("x", {3, 2})},
                                                      {"rest", filled("x", {2})}});
  Weights plan = Weights::plan(source_of(&checkpoint));
  plan.tensor(Role::kVision, "integers", {2, 2});
  plan.linear(Role::kVision, {"proj"}, 2, {3}, /*bias=*/true);
  const std::string text = complaint(plan);
  CHECK(text.find("integers: expected F32, F16 or BF16, got I64") != std::string::npos);
  CHECK(text.find("1 missing:\n    proj.bias [3]") != std::string::npos);
  CHECK(text.find("1 unexpected:\n    rest [2]") != std::string::npos);

  Weights fitting = Weights::plan(source_of(&checkpoint));
  fitting.linear(Role::kVision, {"proj"}, 2, {3}, /*bias=*/false);
  fitting.ignore("rest");
  fitting.ignore("integers");
  CHECK(complaint(fitting).empty());
}

TEST_CASE("roles that aren't needed are planned but not loaded") {
  const auto build = [](Weights& weights) {
    return std::tuple{weights.tensor(Role::kVision, "norm", {5}), weights.linear(Role::kVision, {"v"}, 3, {4}, true),
                      weights.tensor(Role::kLanguage, "n", {6}), weights.embedding(Role::kLanguage, "e", {7, 3}),
                      weights.linear(Role::kLanguage, {"l"}, 3, {8}, false)};
  };
  Weights::Source source = source_of(nullptr);
  source.roles = RoleSet::vision_only();
  source.trainable.language = true;  // makes no gradients for what isn't there
  Weights plan = Weights::plan(source);
  CHECK(plan.planning());
  build(plan);
  Weights weights = Weights::load(plan);
  const auto [norm, vision, text_norm, embedding, text] = build(weights);
  CHECK(norm.defined());
  CHECK(vision);
  CHECK_FALSE(text_norm.defined());
  CHECK_FALSE(embedding.defined());
  CHECK_FALSE(text);
  CHECK_FALSE(weights.tied_linear(Role::kLanguage, embedding));
  const Parameters& parameters = weights.parameters();
  CHECK(parameters.list.size() == 6);
  CHECK(parameters.trainable.empty());
  CHECK(parameters.count(Role::kVision) == 5 + 12 + 4);
  CHECK(parameters.count(Role::kLanguage) == 6 + 21 + 24);
  CHECK(parameters.bytes(all_of(Precision::kFp32), RoleSet::vision_only()) == 4 * 21);
  CHECK(parameters.bytes(all_of(Precision::kFp32)) == 4 * (21 + 51));
  CHECK(parameters.bytes(all_of(Precision::kBf16)) == 2 * (21 + 51));
  // 16 bits: matrices and tables; 8 bits: matrices, with 12 bytes per output.
  CHECK(parameters.bytes(all_of(Precision::kFp16)) == 2 * (12 + 21 + 24) + 4 * (5 + 4 + 6));
  CHECK(parameters.bytes(all_of(Precision::kInt8)) == 12 + 24 + 12 * (4 + 8) + 2 * 21 + 4 * (5 + 4 + 6));
}

TEST_CASE("tensors arrive with their values from files of any type, whatever precision they get") {
  const at::Tensor q = filled("q", {4, 6}), k = filled("k", {2, 6}), q_bias = filled("qb", {4}),
                   k_bias = filled("kb", {2}), norm = filled("n", {6}), table = filled("t", {1100, 1000}),
                   x = filled("x", {3, 6});  // the table is more than one chunk
  for (const at::ScalarType stored : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const test::TemporaryFolder folder;
    std::vector<Named> tensors = {{"q.weight", q},    {"k.weight", k}, {"q.bias", q_bias},
                                  {"k.bias", k_bias}, {"norm", norm},  {"table", table}};
    for (Named& named : tensors) named.tensor = named.tensor.to(stored);
    const Checkpoint checkpoint = write(folder.path(), tensors);
    for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16}) {
      CAPTURE(to_string(precision));
      Weights plan = Weights::plan(source_of(&checkpoint, precision));
      const auto build = [](Weights& weights) {
        return std::tuple{weights.linear(Role::kLanguage, {"q", "k"}, 6, {4, 2}, true),
                          weights.tensor(Role::kLanguage, "norm", {6}),
                          weights.embedding(Role::kLanguage, "table", {1100, 1000})};
      };
      build(plan);
      CHECK(complaint(plan).empty());
      Weights weights = Weights::load(plan);
      const auto [fused, loaded_norm, loaded_table] = build(weights);
      const at::ScalarType activations = precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
      CHECK((weights.activation_type(Role::kLanguage) == activations));
      CHECK(loaded_norm.equal(norm.to(stored).to(activations)));
      const at::ScalarType rows = precision == Precision::kFp32                              ? at::kFloat
                                  : precision == Precision::kBf16 || stored == at::kBFloat16 ? at::kBFloat16
                                                                                             : at::kHalf;
      CHECK((loaded_table.scalar_type() == rows));
      CHECK(loaded_table.equal(table.to(stored).to(rows)));
      const at::Tensor expected = at::cat({at::linear(x, q, q_bias), at::linear(x, k, k_bias)}, -1);
      CHECK(relative_difference(fused(x.to(activations)), expected) <=
            (precision == Precision::kBf16 || stored == at::kBFloat16 ? 0.01 : 1e-3));
    }
  }
}

TEST_CASE("without a checkpoint the values are the formula's, for every piece of a fused matrix") {
  Weights::Source source = source_of(nullptr);
  source.seed = 7;
  source.trainable.language = true;
  Weights plan = Weights::plan(source);
  plan.linear(Role::kLanguage, {"b", "a"}, 3, {2, 2}, false);
  Weights weights = Weights::load(plan);
  weights.linear(Role::kLanguage, {"b", "a"}, 3, {2, 2}, false);
  REQUIRE(weights.parameters().trainable.size() == 1);
  const Trainable& matrix = weights.parameters().trainable.front();
  CHECK(matrix.names == std::vector<std::string>{"b.weight", "a.weight"});
  CHECK(matrix.value.requires_grad());
  CHECK(matrix.value[2][1].item<float>() == 0x1.7e24d8p-2F);  // a.weight's second element
}

TEST_CASE("a model that doesn't fit into memory is refused with the numbers, before anything is read") {
  Weights plan = Weights::plan(source_of(nullptr));
  plan.tensor(Role::kLanguage, "small", {16});
  CHECK_NOTHROW(check_memory(plan, 0));
  plan.linear(Role::kLanguage, {"huge"}, 1 << 20, {1 << 24}, false);  // 70 TB
  try {
    check_memory(plan, 300'000'000);
    FAIL("not refused");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kMemory);
    const std::string text = error.what();
    INFO(text);
    CHECK(text.find("70.4 TB") != std::string::npos);
    CHECK(text.find("are free") != std::string::npos);
    CHECK(text.find("no precision fits") != std::string::npos);
  }
}

TEST_CASE("a model that doesn't fit is told the precision in which it would, unless it is to be trained") {
  const auto refusal = [](bool trained) {
    Weights::Source source = source_of(nullptr);
    source.trainable.language = trained;
    Weights plan = Weights::plan(source);
    const auto elements = static_cast<std::int64_t>(available_memory() * 2 / 3);  // fp16 doesn't fit, int8 does
    plan.linear(Role::kLanguage, {"large"}, 1024, {elements / 1024}, false);
    try {
      check_memory(plan, 0);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kMemory);
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  CHECK(refusal(false).find("precision int8 would fit with ") != std::string::npos);
  CHECK(refusal(true).find("no precision fits") != std::string::npos);
}

TEST_CASE("a model folder says what it lacks, and reads one stop token or many") {
  ModelConfig config;
  CHECK(code_of([&] { ModelFolder{config}; }) == ErrorCode::kConfig);
  const test::TemporaryFolder folder;
  config.pretrained_path = folder.path().string();
  CHECK(code_of([&] { ModelFolder{config}; }) == ErrorCode::kNotFound);  // no config.json
  std::ofstream(folder / "config.json") << "{}";
  CHECK(code_of([&] { ModelFolder{config}; }) == ErrorCode::kNotFound);  // no weights
  config.pretrained = false;
  const ModelFolder opened(config);
  CHECK(opened.checkpoint() == nullptr);
  CHECK(opened.optional_json("absent.json").empty());
  CHECK(opened.stop_ids().empty());
  const auto stops = [&](const std::string& json) {
    std::ofstream(folder / "generation_config.json") << json;
    return opened.stop_ids();
  };
  CHECK(stops(R"({"eos_token_id": 602})") == std::vector<TokenId>{602});
  CHECK(stops(R"({"eos_token_id": [602, 600]})") == std::vector<TokenId>{602, 600});
  CHECK(stops(R"({"eos_token_id": null})").empty());
  CHECK(code_of([&] { stops(R"({"eos_token_id": "end"})"); }) == ErrorCode::kConfig);
  CHECK(code_of([&] { stops(R"({"eos_token_id": [602, 1.5]})"); }) == ErrorCode::kConfig);
}

TEST_CASE("training makes fp32 of what gradients reach or cross, and leaves the rest") {
  const test::TemporaryFolder folder;
  std::ofstream(folder / "config.json") << "{}";
  ModelConfig config;
  config.pretrained_path = folder.path().string();
  config.pretrained = false;
  config.device = "cpu";
  config.precision = all_of(Precision::kBf16);
  const auto types = [&](bool trainable, bool freeze_vision, bool freeze_language) {
    config.freeze_vision_encoder = freeze_vision;
    config.freeze_language_model = freeze_language;
    CreateOptions options;
    options.trainable = trainable;
    const Weights plan = ModelFolder(config).plan(config, options);
    return std::vector<at::ScalarType>{plan.activation_type(Role::kVision), plan.activation_type(Role::kConnector),
                                       plan.activation_type(Role::kLanguage)};
  };
  const auto narrow = at::kBFloat16, wide = at::kFloat;
  CHECK((types(false, false, false) == std::vector{narrow, narrow, narrow}));
  CHECK((types(true, true, true) == std::vector{narrow, narrow, narrow}));
  CHECK((types(true, true, false) == std::vector{narrow, wide, wide}));
  CHECK((types(true, false, true) == std::vector{wide, wide, wide}));  // they cross the frozen language model
  config.freeze_connector = true;
  CHECK((types(true, true, false) == std::vector{narrow, narrow, wide}));
  CHECK((types(true, false, true) == std::vector{wide, wide, wide}));
  config.freeze_connector = false;
  CHECK((types(true, true, true) == std::vector{narrow, wide, wide}));
  config.multimodal = false;
  CHECK((types(true, false, false).front() == wide));  // the others aren't there
  CHECK((types(true, true, true).front() == narrow));
}
