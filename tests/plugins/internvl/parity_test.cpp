// The InternVL adapter against goldens of the reference (tests/reference/make_goldens.py): the checkpoints are made by
// `vlmzoo init` from the same formula as there.
#include <c10/core/GradMode.h>

#include "parity.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

TEST_CASE("InternVL gives the reference's pixels, token ids, hidden states, logits and greedy answers") {
  const c10::AutoGradMode no_grad(false);
  CHECK(compare_with_goldens("internvl") == 56);  // every run that the goldens hold
}

TEST_CASE("a checkpoint gives the same numbers in shards and in 16-bit files") {
  const c10::AutoGradMode no_grad(false);
  const Request request{"How many receipts are there?", {picture("landscape.jpg")}};
  const auto logits = [&](const std::string& dtype, const std::string& more = "") {
    return logits_of(*open_model(checkpoint("internvl/release", 0, dtype, more)), request);
  };
  const at::Tensor whole = logits("fp32");
  CHECK(logits("fp32", "--max-shard-size 200KB").equal(whole));
  // Rounding the weights to 8 or 11 bits moves the logits by no more than the rounding itself, some layers deep.
  CHECK(difference(logits("bf16"), whole) < 0.1);
  CHECK(difference(logits("fp16"), whole) < 0.02);
}

TEST_CASE("every precision stays near fp32") {
  const c10::AutoGradMode no_grad(false);
  const fs::path folder = checkpoint("internvl/release", 0);
  const Request request{"How many receipts are there?", {picture("portrait.jpg")}};
  const auto logits = [&](Precision precision) { return logits_of(*open_model(folder, precision), request); };
  const at::Tensor fp32 = logits(Precision::kFp32);
  CHECK(cosine(logits(Precision::kFp16), fp32) > 0.99999);
  CHECK(cosine(logits(Precision::kBf16), fp32) > 0.999);
  CHECK(cosine(logits(Precision::kInt8), fp32) > 0.99);
}

TEST_CASE("roles that the configuration freezes get no gradients, all others finite ones") {
  ModelConfig config;
  config.pretrained_path = checkpoint("internvl/release", 0).string();
  const Request request{"How many receipts are there?", {picture("portrait.jpg")}};
  for (const bool vision : {false, true}) {
    config.freeze_vision_encoder = !vision;
    config.freeze_language_model = vision;
    std::map<Role, int> counts = gradients_by_role(config, request);
    CHECK((counts[Role::kVision] > 0) == vision);
    CHECK((counts[Role::kLanguage] > 0) == !vision);
    CHECK(counts[Role::kConnector] > 0);
  }
}
