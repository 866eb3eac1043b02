#include "vlmzoo/heads.hpp"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include "subjects.hpp"
#include "support.hpp"
#include "tensors.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/training.hpp"

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

/// Every kind of classifier.
std::vector<ClassifierConfig> kinds() {
  std::vector<ClassifierConfig> all;
  for (const char* type : {"mlp", "linear"}) {
    ClassifierConfig kind;
    kind.type = type;
    for (const char* pooling : {"model", "mean", "attention"}) {
      kind.pooling = pooling;
      all.push_back(kind);
    }
    kind.pooling = ClassifierConfig{}.pooling;
    kind.features = "multimodal";
    all.push_back(kind);
  }
  return all;
}

/// With a query that prefers some tokens, where there is one.
Head make(const ModelInfo& info, ModelConfig config, const ClassifierConfig& kind) {
  config.classifier = kind;
  Head head = fresh_head(head_config(info, config), /*seed=*/1);
  for (const NamedTensor& named : head.tensors()) {
    if (named.name == "attention_pooling.query") {
      at::Tensor(named.tensor).copy_(test::filled("query", {info.num_features}, 4));
    }
  }
  return head;
}

Request pictures_of_all() {
  Request all;
  for (const Request& request : requests()) {
    all.images.insert(all.images.end(), request.images.begin(), request.images.end());
  }
  return all;
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

TEST_CASE("one call runs every kind of head, each picture as if it were alone") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const ModelConfig config = config_of(subject);
    const auto whole = create(subject);
    ModelConfig vision_config = config;
    vision_config.multimodal = false;
    const auto vision = create(subject, vision_config);
    const Request all = pictures_of_all();
    for (const ClassifierConfig& kind : kinds()) {
      const Head head = make(whole->info(), config, kind);
      CAPTURE(kind.type);
      CAPTURE(head.pooled_name());
      const HeadOutput output = run_head(*whole, head, all);
      CHECK(output.logits.sizes() == at::IntArrayRef({std::ssize(all.images), config.num_classes}));
      CHECK(output.logits.isfinite().all().item<bool>());
      CHECK(output.multimodal_embeddings.defined() == head.needs_language());
      for (std::size_t i = 0; i < all.images.size(); ++i) {
        Request one;
        one.images = {all.images[i]};
        CHECK(relative_difference(run_head(*whole, head, one).logits[0], output.logits[static_cast<std::int64_t>(i)]) <=
              kTolerance);
      }
      const ModelInputs inputs = head_inputs(*whole, head, all.images);
      CHECK(inputs.input_ids.defined() == head.needs_language());
      const ImageFeatures features = whole->encode_images(inputs);
      CHECK(at::equal(run_head(*whole, head, inputs, &features).logits, output.logits));
      if (head.poolable()) {
        const at::Tensor pooled = pooled_features(*whole, head, inputs);
        CHECK(pooled.sizes() == at::IntArrayRef({std::ssize(all.images), head.pooled_width()}));
        CHECK(at::equal(head.forward_pooled(pooled).logits, output.logits));
      } else {
        CHECK(test::code_of([&] { pooled_features(*whole, head, inputs); }) == ErrorCode::kUnsupported);
      }
      ModelConfig wanted = config;
      wanted.classifier = kind;
      CHECK(head_roles(wanted).language == head.needs_language());
      if (!head.needs_language()) {
        CHECK(relative_difference(run_head(*vision, head, all).logits, output.logits) <= kTolerance);
      }
    }
  }
}

TEST_CASE("what of a model a head needs is known from its file before the model is loaded") {
  const test::TemporaryFolder folder;
  for (const Subject& subject : subjects()) {
    ModelConfig config = config_of(subject);
    const auto plan = create(subject, config, {.plan_only = true});
    for (const ClassifierConfig& kind : kinds()) {
      const Head head = make(plan->info(), config, kind);
      save_head(folder / "head.safetensors", head);
      ModelConfig named = config;
      named.head = (folder / "head.safetensors").string();
      CHECK(head_roles(named).language == head.needs_language());
    }
  }
}

TEST_CASE("training reaches every tensor of every kind of head, and of the model what that kind looks at") {
  FOR_EACH_SUBJECT(subject) {
    ModelConfig config = config_of(subject);
    config.freeze_vision_encoder = false;
    const auto model = create(subject, config, {.trainable = true});
    const Request all = pictures_of_all();
    for (const ClassifierConfig& kind : kinds()) {
      Head head = make(model->info(), config, kind);
      CAPTURE(kind.type);
      CAPTURE(head.pooled_name());
      const std::vector<TrainedTensor> trained = trained_tensors(head);
      for (const Trainable& tensor : model->parameters().trainable) at::Tensor(tensor.value).mutable_grad().reset();
      const at::Tensor logits = train_head(*model, head, head_inputs(*model, head, all.images)).logits;
      (logits * test::filled("slope", logits.sizes().vec())).sum().backward();
      for (const TrainedTensor& tensor : trained) {
        REQUIRE_MESSAGE(tensor.value.grad().defined(), tensor.name);
        CHECK_MESSAGE(tensor.value.grad().isfinite().all().item<bool>(), tensor.name);
      }
      std::int64_t vision = 0, language = 0;
      for (const Trainable& tensor : model->parameters().trainable) {
        if (!tensor.value.grad().defined()) continue;
        CHECK_MESSAGE(tensor.value.grad().isfinite().all().item<bool>(), tensor.names.front());
        vision += tensor.role == Role::kVision;
        language += tensor.role == Role::kLanguage;
      }
      CHECK(vision > 0);
      CHECK((language > 0) == head.needs_language());
    }
  }
}
