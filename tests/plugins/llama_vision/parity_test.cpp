// The Llama-3.2-Vision adapter against goldens of transformers 4.45.2 with Meta's row mask
// (tests/reference/make_mllama_goldens.py): the checkpoints are made by `vlmzoo init` from the same formula as there.
#include <c10/core/GradMode.h>

#include <regex>
#include <thread>

#include "parity.hpp"
#include "support.hpp"
#include "vlmzoo/generation.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

const std::string kQuestion = "How many receipts are there?";

TextOutput run(const Model& model, const ModelInputs& inputs, std::int64_t logits_to_keep = 1) {
  const ImageFeatures features = inputs.pixel_values.defined() ? model.encode_images(inputs) : ImageFeatures();
  const auto cache = model.new_cache(inputs.input_ids.size(0), inputs.input_ids.size(1));
  return model.forward(inputs, inputs.pixel_values.defined() ? &features : nullptr, *cache, logits_to_keep);
}

/// The same checkpoint with the tensor names that transformers ≥ 4.52 writes.
void write_nested(const fs::path& from, const fs::path& to) {
  fs::copy(from, to);
  fs::remove(to / "model.safetensors");
  const SafetensorsFile file(from / "model.safetensors");
  std::vector<TensorEntry> entries = file.entries();
  for (TensorEntry& entry : entries) {
    entry.name = std::regex_replace(entry.name, std::regex("^language_model\\.model"), "model.language_model");
    entry.name = std::regex_replace(entry.name, std::regex("^language_model\\.lm_head"), "lm_head");
    entry.name = std::regex_replace(entry.name, std::regex("^(vision_model|multi_modal_projector)"), "model.$1");
  }
  SafetensorsWriter writer(to / "model.safetensors", entries, {});
  for (const TensorEntry& entry : file.entries()) {
    std::vector<std::byte> bytes(entry.bytes());
    file.read(entry, 0, bytes);
    writer.write(bytes);
  }
  writer.commit();
}

}  // namespace

TEST_CASE("Llama-3.2-Vision gives the reference's pixels, token ids, masks, hidden states, logits and greedy answers") {
  const c10::AutoGradMode no_grad(false);
  CHECK(compare_with_goldens("llama_vision") == 61);  // every run that the goldens hold
}

TEST_CASE("a Llama checkpoint gives the same numbers in shards, in 16-bit files and under newer tensor names") {
  const c10::AutoGradMode no_grad(false);
  const Request request{kQuestion, {picture("landscape.jpg")}};
  const auto logits = [&](const std::string& dtype, const std::string& more = "") {
    return logits_of(*open_model(checkpoint("llama_vision/instruct", 0, dtype, more)), request);
  };
  const at::Tensor whole = logits("fp32");
  CHECK(logits("fp32", "--max-shard-size 200KB").equal(whole));
  // Rounding the weights to 8 or 11 bits moves the logits by no more than the rounding itself, some layers deep.
  CHECK(difference(logits("bf16"), whole) < 0.1);
  CHECK(difference(logits("fp16"), whole) < 0.02);
  const TemporaryFolder folder;
  write_nested(checkpoint("llama_vision/instruct", 0), folder / "nested");
  CHECK(logits_of(*open_model(folder / "nested"), request).equal(whole));
}

TEST_CASE("every precision of Llama stays near fp32") {
  const c10::AutoGradMode no_grad(false);
  const fs::path folder = checkpoint("llama_vision/instruct", 0);
  const Request request{kQuestion, {picture("portrait.jpg")}};
  const auto logits = [&](Precision precision) { return logits_of(*open_model(folder, precision), request); };
  const at::Tensor fp32 = logits(Precision::kFp32);
  CHECK(cosine(logits(Precision::kFp16), fp32) > 0.99999);
  CHECK(cosine(logits(Precision::kBf16), fp32) > 0.999);
  CHECK(cosine(logits(Precision::kInt8), fp32) > 0.998);
}

TEST_CASE("frozen roles of Llama get no gradients, all others finite ones") {
  ModelConfig config;
  config.pretrained_path = checkpoint("llama_vision/instruct", 0).string();
  const Request request{kQuestion, {picture("portrait.jpg")}};
  for (const bool vision : {false, true}) {
    config.freeze_vision_encoder = !vision;
    config.freeze_language_model = vision;
    std::map<Role, int> counts = gradients_by_role(config, request);
    CHECK((counts[Role::kVision] > 0) == vision);
    CHECK((counts[Role::kLanguage] > 0) == !vision);
    CHECK(counts[Role::kConnector] > 0);
  }
}

TEST_CASE("prompts with no, one and several pictures give the same alone and in a batch") {
  const c10::AutoGradMode no_grad(false);
  const auto model = open_model(checkpoint("llama_vision/instruct", 0));
  const std::vector<Request> requests = {
      {"See <image> and <image> and <image>.",
       {picture("square.png"), picture("portrait.jpg"), picture("tiny_37x23.png")}},
      {kQuestion, {}},
      {"\nWhat is in <image>, and what is in <image>?", {picture("landscape.jpg"), picture("square.png")}}};
  const at::Tensor together = run(*model, model->preprocess(requests)).logits;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    CAPTURE(i);
    const at::Tensor alone = run(*model, model->preprocess({&requests[i], 1})).logits;
    CHECK(difference(together[static_cast<std::int64_t>(i)], alone[0]) < 1e-5);
  }
  GenerationConfig config;
  config.max_new_tokens = 8;
  config.temperature = 0;
  const std::vector<Answer> answers = generate(*model, model->preprocess(requests), config);
  for (std::size_t i = 0; i < requests.size(); ++i)
    CHECK(answers[i].ids == generate(*model, model->preprocess({&requests[i], 1}), config).at(0).ids);
}

TEST_CASE("a prompt may come in pieces, also with its pictures, and each row keeps what it saw") {
  const c10::AutoGradMode no_grad(false);
  const auto model = open_model(checkpoint("llama_vision/instruct", 0));
  const Request request{"a<image><image>b<image>", {picture("square.png"), picture("grey.png"), picture("rgba.png")}};
  const ModelInputs whole = model->preprocess({&request, 1});
  const std::int64_t length = whole.input_ids.size(1);
  const at::Tensor expected = run(*model, whole).last_hidden_state;
  const ImageFeatures features = model->encode_images(whole);
  const std::int64_t image_token = whole.input_ids.max().item<std::int64_t>();
  const auto cache = model->new_cache(1, length);
  std::int64_t image = 0, tiles = features.tiles_per_image.front();
  for (std::int64_t row = 0; row < length; ++row) {  // one token at a time: the hardest way
    ModelInputs piece;
    piece.input_ids = whole.input_ids.narrow(1, row, 1);
    ImageFeatures one;
    const bool pictured = piece.input_ids.item<std::int64_t>() == image_token;
    if (pictured) {
      one.tiles_per_image = {tiles};
      one.image_embeds = features.image_embeds.narrow(0, image * tiles, tiles);
      one.valid = features.valid.narrow(0, image * tiles, tiles);
      ++image;
    }
    const TextOutput output = model->forward(piece, pictured ? &one : nullptr, *cache, 1);
    CHECK(difference(output.last_hidden_state[0][0], expected[0][row]) < 1e-5);
  }
  CHECK(image == 3);
}

TEST_CASE("the text before a picture is as if there were none") {
  const c10::AutoGradMode no_grad(false);
  const auto model = open_model(checkpoint("llama_vision/instruct", 0));
  const Request with{"Some words, then <image>", {picture("square.png")}}, without{"Some words, then ", {}};
  const ModelInputs inputs = model->preprocess({&with, 1});
  const std::int64_t mark = inputs.input_ids[0].argmax().item<std::int64_t>();
  const at::Tensor seen = run(*model, inputs).last_hidden_state[0].narrow(0, 0, mark);
  const at::Tensor text = run(*model, model->preprocess({&without, 1})).last_hidden_state[0].narrow(0, 0, mark);
  CHECK(difference(seen, text) < 1e-6);
}

TEST_CASE("unused tiles count for the vision tower, but not as features") {
  const c10::AutoGradMode no_grad(false);
  const auto model = open_model(checkpoint("llama_vision/instruct", 0));
  const Request request{"", {picture("tiny_37x23.png")}};
  ModelInputs inputs = model->preprocess({&request, 1}, /*vision_only=*/true);
  CHECK(!inputs.input_ids.defined());
  const ImageFeatures features = model->encode_images(inputs);
  const std::int64_t used = inputs.extra.at("aspect_ratio_mask").sum().item<std::int64_t>();
  REQUIRE(used < model->info().max_tiles);
  CHECK(features.last_hidden_state.sizes() == at::IntArrayRef({4, 17, model->info().num_features}));
  CHECK(features.valid.sum().item<std::int64_t>() == used * 17);
  CHECK(features.valid.narrow(0, 0, used).all().item<bool>());
  CHECK(!features.pooler_output.defined());
  inputs.pixel_values[0][0].narrow(0, used, 4 - used).fill_(1);
  CHECK(difference(model->encode_images(inputs).last_hidden_state[0], features.last_hidden_state[0]) > 1e-3);
}

TEST_CASE("both models live in one process and answer at once from two threads each") {
  const auto internvl = open_model(checkpoint("internvl/release", 0));
  const auto llama = open_model(checkpoint("llama_vision/instruct", 0));
  const std::vector<const Model*> models = {internvl.get(), llama.get(), internvl.get(), llama.get()};
  const Request request{kQuestion, {picture("portrait.jpg")}};
  GenerationConfig config;
  config.max_new_tokens = 6;
  config.temperature = 0;
  const auto answer = [&](const Model& model) {
    return generate(model, model.preprocess({&request, 1}), config).at(0).ids;
  };
  std::vector<std::vector<TokenId>> answers(models.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < models.size(); ++i) threads.emplace_back([&, i] { answers[i] = answer(*models[i]); });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < models.size(); ++i) CHECK(answers[i] == answer(*models[i]));
}
