// int8 against fp32 on every tiny checkpoint that has goldens (their manifests name seeds, pictures and prompts).
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include "parity.hpp"
#include "vlmzoo/system.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

constexpr std::int64_t kTokens = 12;  // of an answer
constexpr double kCosine = 0.998;     // of the logits [V] at each position to fp32's
constexpr double kClear = 0.2;        // lead of fp32's best token over its second, in standard deviations of the logits

/// Logits [kTokens, V] behind the prompt and behind each token of `answer`; without one, of the greedy answer, which
/// goes on behind a stop token.
at::Tensor logits_along(const Model& model, const Request& request, const at::Tensor& answer = {}) {
  const ModelInputs inputs = model.preprocess({&request, 1});
  const bool pictures = inputs.pixel_values.defined();
  const ImageFeatures features = pictures ? model.encode_images(inputs) : ImageFeatures();
  const auto cache = model.new_cache(/*batch=*/1, inputs.input_ids.size(1) + kTokens);
  std::vector<at::Tensor> rows = {model.forward(inputs, pictures ? &features : nullptr, *cache).logits[0][0]};
  for (std::int64_t step = 0; step + 1 < kTokens; ++step) {
    ModelInputs next;
    next.input_ids = (answer.defined() ? answer[step] : rows.back().argmax()).view({1, 1});
    rows.push_back(model.forward(next, nullptr, *cache).logits[0][0]);
  }
  return at::stack(rows);
}

/// How many tokens of the answer were clear.
std::int64_t compare_answers(const Model& model, const Model& fp32, const Request& request) {
  const at::Tensor expected = logits_along(fp32, request), answer = expected.argmax(-1);
  const at::Tensor got = logits_along(model, request, answer);
  for (std::int64_t i = 0; i < kTokens; ++i) CHECK(cosine(got[i], expected[i]) >= kCosine);
  const at::Tensor best = std::get<0>(expected.topk(2));
  const at::Tensor clear = (best.select(1, 0) - best.select(1, 1)) > kClear * expected.std(1);
  CHECK((got.argmax(-1) == answer).logical_or(clear.logical_not()).all().item<bool>());
  return clear.sum().item<std::int64_t>();
}

/// Every golden run of one checkpoint, with int8 in the roles that `use_8bit` names and in all.
void compare_checkpoint(const fs::path& folder, const Json& runs, const std::string& name) {
  const auto fp32 = open_model(folder), everywhere = open_model(folder, Precision::kInt8);
  ModelConfig config;
  config.pretrained_path = folder.string();
  config.use_8bit = true;
  const auto use_8bit = open_model(config);
  std::int64_t compared = 0, clear = 0;
  for (const Json& run : runs) {
    if (run.at("case") != name) continue;
    CAPTURE(run.at("file").get<std::string>());
    clear += compare_answers(*everywhere, *fp32, request_of(run));
    compare_answers(*use_8bit, *fp32, request_of(run));
    ++compared;
  }
  CHECK(compared > 0);
  CHECK(clear >= kTokens * compared / 5);  // of random weights a third to two thirds are
}

}  // namespace

TEST_CASE("int8 keeps the logits of fp32 at every position, and its next token wherever that is clear") {
  if (!cpu_features().fbgemm()) {
    MESSAGE("skipped: this processor has no AVX2");
    return;
  }
  at::set_num_threads(1);  // of products this small, threads only wait for each other
  const c10::AutoGradMode no_grad(false);
  for (const std::string family : {"internvl", "llama_vision"}) {
    const Json manifest = read_json(fs::path(VLMZOO_TEST_DATA) / "goldens" / family / "manifest.json");
    for (const auto& [name, facts] : manifest.at("cases").items()) {
      CAPTURE(name);
      compare_checkpoint(golden_checkpoint(family, name, facts), manifest.at("runs"), name);
    }
  }
}
