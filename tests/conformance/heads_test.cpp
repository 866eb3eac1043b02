#include "vlmzoo/heads.hpp"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include "subjects.hpp"
#include "support.hpp"
#include "tensors.hpp"

using namespace vlmzoo;
using namespace vlmzoo::conformance;
using test::relative_difference;

namespace {

void check_equal(const HeadOutput& got, const HeadOutput& expected) {
  CHECK(relative_difference(got.logits, expected.logits) <= kTolerance);
  CHECK(relative_difference(got.embeddings, expected.embeddings) <= kTolerance);
  CHECK(relative_difference(got.response_logits, expected.response_logits) <= kTolerance);
  CHECK(relative_difference(got.multimodal_embeddings, expected.multimodal_embeddings) <= kTolerance);
}

}  // namespace

TEST_CASE("every head works on the model, and comes back from its file") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const ModelConfig config = config_of(subject);
    const auto model = create(subject);
    const ModelInfo& info = model->info();
    const Head head = fresh_head(head_config(info, config), /*seed=*/1);
    const ModelInputs inputs = model->preprocess(requests());
    const auto features = encode(*model, inputs);
    const TextOutput text = read(*model, inputs, features.get());
    const HeadOutput output = head.forward_multimodal(*model, inputs, features.get(), text);
    const std::int64_t pictures = 3, prompts = 3;
    CHECK(output.logits.sizes() == at::IntArrayRef({pictures, config.num_classes}));
    CHECK(output.embeddings.sizes() == at::IntArrayRef({pictures, info.text_hidden_size}));
    CHECK(output.response_logits.sizes() == at::IntArrayRef({prompts, info.vocab_size}));
    CHECK(output.multimodal_embeddings.sizes() == at::IntArrayRef({prompts, info.text_hidden_size}));
    CHECK(probabilities(output.logits).sum(1).sub(1).abs().max().item<double>() <= 1e-6);
    // The shared response generator is the model's own lm_head on each prompt's last token.
    CHECK(relative_difference(output.response_logits, text.logits.squeeze(1)) <= kTolerance);

    const Head own = head.with_own_response_generator(*model);
    check_equal(own.forward_multimodal(*model, inputs, features.get(), text), output);
    const test::TemporaryFolder folder;
    save_head(folder / "head.safetensors", own);
    const Head loaded = load_head(folder / "head.safetensors", info, config);
    check_equal(loaded.forward_multimodal(*model, inputs, features.get(), text), output);
  }
}

TEST_CASE("classifying needs the vision part alone, and gives the same classes") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    ModelConfig config = config_of(subject);
    const auto whole = create(subject, config);
    config.multimodal = false;
    const auto vision = create(subject, config);
    const Head head = fresh_head(head_config(vision->info(), config), /*seed=*/1);
    const ModelInputs inputs = vision->preprocess(requests(), /*vision_only=*/true);
    CHECK(!inputs.input_ids.defined());
    CHECK(vision->tokenizer() == nullptr);
    const auto features = encode(*vision, inputs);
    CHECK(!features->image_embeds.defined());
    const at::Tensor expected = head.forward(*encode(*whole, whole->preprocess(requests()))).logits;
    CHECK(relative_difference(head.forward(*features).logits, expected) <= kTolerance);
    const ModelInputs question = whole->preprocess({&requests()[1], 1});
    const auto cache = whole->new_cache(1, question.input_ids.size(1));
    CHECK(test::code_of([&] { vision->forward(question, nullptr, *cache); }) == ErrorCode::kUnsupported);
  }
}
