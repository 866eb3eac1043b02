// int8 against fp32 on the tiny checkpoints of every adapter that has goldens (their manifests name seeds and prompts).
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include "parity.hpp"
#include "vlmzoo/system.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

constexpr std::int64_t kTokens = 12;       // of an answer
constexpr double kCosine = 0.998;          // of all logits of an answer, int8 to fp32
constexpr double kClear = 0.2;             // fp32's lead of the best token, in standard deviations of the logits

/// Logits [kTokens, V] behind the prompt and behind each token of `answer`; without one, of the model's own greedy
/// answer, which goes on behind a stop token.
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

struct Tally {
  std::int64_t tokens = 0, clear = 0, other = 0;
  double worst = 1;
};

}  // namespace

TEST_CASE("int8 keeps the logits and every clear next token of fp32") {
  if (!cpu_features().fbgemm()) {
    MESSAGE("skipped: this processor has no AVX2");
    return;
  }
  const c10::AutoGradMode no_grad(false);
  const fs::path goldens = fs::path(VLMZOO_TEST_DATA) / "goldens";
  const Facts dtypes = {{"float32", "fp32"}, {"bfloat16", "bf16"}, {"float16", "fp16"}};
  for (const std::string family : {"internvl", "llama_vision"}) {
    const Json manifest = read_json(goldens / family / "manifest.json");
    for (const auto& [name, facts] : manifest.at("cases").items()) {
      const fs::path folder = checkpoint(family + "/" + name, facts.at("seed").get<std::int64_t>(), dtypes.at(facts.at("dtype").get<std::string>()));
      const auto exact = open_model(folder), quantized = getenv("USE8") ? [&]{ModelConfig c; c.pretrained_path=folder.string(); c.precision={Precision::kFp32,Precision::kInt8,Precision::kInt8}; return open_model(c);}() : open_model(folder, Precision::kInt8);
      Tally tally; double wd = 0, whole = 1, first = 1;
      for (const Json& run : manifest.at("runs")) {
        if (run.at("case") != name) continue;
        const Request request = request_of(run);
        const at::Tensor expected = logits_along(*exact, request), answer = expected.argmax(-1);
        const at::Tensor got = logits_along(*quantized, request, answer);
        whole = std::min(whole, cosine(got, expected));
        for (int i = 0; i < kTokens; ++i) {
          const double c = cosine(got[i], expected[i]);
          const auto top = std::get<0>(expected[i].topk(2));
          const double lead = ((top[0]-top[1])/expected[i].std()).item<double>();
          const bool same = got[i].argmax().item<int64_t>() == answer[i].item<int64_t>();
          tally.tokens++; if (lead > kClear) { tally.clear++; if (!same) { tally.other++; MESSAGE(run.at("file").get<std::string>() << " step " << i << " lead " << lead << " cos " << c);} }
          if (!same) wd = std::max(wd, lead);
          if (i == 0) first = std::min(first, c);
          tally.worst = std::min(tally.worst, c);
        }
      }
      MESSAGE(family << "/" << name << " tokens " << tally.tokens << " clear " << tally.clear << " other " << tally.other << " worst cos " << tally.worst << " whole " << whole << " first " << first << " worst lead lost "<<wd);
    }
  }
}
