#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <future>

#include "subjects.hpp"
#include "tensors.hpp"
#include "vlmzoo/generation.hpp"

using namespace vlmzoo;
using namespace vlmzoo::conformance;
using test::relative_difference;

namespace {

/// So hot that most answers differ with the random numbers.
GenerationConfig sampled(std::int64_t seed) {
  GenerationConfig config;
  config.max_new_tokens = 16;
  config.temperature = 2;
  config.seed = seed;
  return config;
}

std::vector<std::vector<TokenId>> answers(const Model& model, std::int64_t seed) {
  std::vector<std::vector<TokenId>> ids;
  for (Answer& answer : generate(model, model.preprocess(requests()), sampled(seed)))
    ids.push_back(std::move(answer.ids));
  return ids;
}

/// The same prompts in rows of `width`, each behind `left` columns of padding or, with -1, at the right end. Padding
/// holds the ids of the longest prompt, image tokens among them.
ModelInputs padded(const ModelInputs& inputs, std::int64_t left, std::int64_t width) {
  const std::int64_t batch = inputs.input_ids.size(0);
  const at::Tensor lengths = inputs.attention_mask.sum(1);
  const at::Tensor filler = inputs.input_ids[lengths.argmax().item<std::int64_t>()];
  ModelInputs result = inputs;
  result.input_ids = at::cat({filler, filler}).narrow(0, 0, width).repeat({batch, 1});
  result.attention_mask = at::zeros({batch, width}, at::kBool);
  for (std::int64_t row = 0; row < batch; ++row) {
    const auto length = lengths[row].item<std::int64_t>();
    const std::int64_t begin = left < 0 ? width - length : left;
    const at::Tensor places = inputs.attention_mask[row].nonzero().squeeze(1);
    result.input_ids[row].narrow(0, begin, length).copy_(inputs.input_ids[row].index_select(0, places));
    result.attention_mask[row].narrow(0, begin, length).fill_(true);
  }
  return result;
}

/// One more token for each prompt; true in `going` for those that still answer.
ModelInputs step(const std::vector<TokenId>& ids, const std::vector<bool>& going) {
  ModelInputs inputs;
  inputs.input_ids = at::zeros({static_cast<std::int64_t>(ids.size()), 1}, at::kLong);
  inputs.attention_mask = at::zeros(inputs.input_ids.sizes(), at::kBool);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    inputs.input_ids[static_cast<std::int64_t>(i)].fill_(ids[i]);
    inputs.attention_mask[static_cast<std::int64_t>(i)].fill_(going[i]);
  }
  return inputs;
}

}  // namespace

TEST_CASE("every plugin is accepted and brings a tiny configuration") {
  for (const RefusedPlugin& plugin : registry().refused()) FAIL_CHECK(plugin.file.string() << ": " << plugin.reason);
  REQUIRE(!registry().plugins().empty());
  for (const PluginInfo& plugin : registry().plugins()) {
    CHECK_MESSAGE(std::ranges::any_of(subjects(), [&](const Subject& s) { return s.plugin == plugin.name; }),
                  "no tiny configuration for the plugin "
                      << plugin.name << ": put one into tests/data/" << plugin.name
                      << "/<case>/ (config.json, tokenizer.json, …), or name its folder with --config");
  }
}

TEST_CASE("a model is what it says before its weights are read") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const auto planned = create(subject, config_of(subject), {.plan_only = true});
    const auto model = create(subject);
    const ModelInputs inputs = model->preprocess(requests());
    const auto features = encode(*model, inputs);
    const TextOutput text = read(*model, inputs, features.get(), 2);
    const auto batch = static_cast<std::int64_t>(requests().size());
    const ModelInfo& info = planned->info();
    CHECK(info.model_type == subject.model_type);
    CHECK(model->info().model_type == subject.model_type);
    CHECK(info.num_features == features->last_hidden_state.size(2));
    CHECK(text.last_hidden_state.sizes() == at::IntArrayRef({batch, inputs.input_ids.size(1), info.text_hidden_size}));
    CHECK(text.logits.sizes() == at::IntArrayRef({batch, 2, info.vocab_size}));
    CHECK((text.logits.scalar_type() == at::kFloat));
    CHECK(model->lm_head(text.last_hidden_state).size(2) == info.vocab_size);
    CHECK(features->tiles_per_image.size() == 3);
    for (const Role role : kRoles) CHECK(planned->parameters().count(role) == model->parameters().count(role));
  }
}

TEST_CASE("a batch gives what each prompt gives alone") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const auto model = create(subject);
    const ModelInputs together = model->preprocess(requests());
    const auto features = encode(*model, together);
    const TextOutput text = read(*model, together, features.get());
    std::size_t image = 0;
    for (std::size_t i = 0; i < requests().size(); ++i) {
      CAPTURE(i);
      const ModelInputs inputs = model->preprocess({&requests()[i], 1});
      const auto own = encode(*model, inputs);
      for (std::size_t j = 0; j < requests()[i].images.size(); ++j, ++image)
        CHECK(relative_difference(tokens_of(*features, image), tokens_of(*own, j)) <= kTolerance);
      const TextOutput alone = read(*model, inputs, own.get());
      const auto row = static_cast<std::int64_t>(i);
      CHECK(relative_difference(text.logits[row], alone.logits[0]) <= kTolerance);
      CHECK(relative_difference(real_rows(text, together, row), real_rows(alone, inputs, 0)) <= kTolerance);
    }
  }
}

TEST_CASE("padding changes nothing, on either side and whatever it holds") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const auto model = create(subject);
    const ModelInputs inputs = model->preprocess(requests());
    REQUIRE(inputs.attention_mask.defined());
    const auto features = encode(*model, inputs);
    const TextOutput expected = read(*model, inputs, features.get(), 2);
    const std::int64_t width = inputs.input_ids.size(1);
    for (const auto& [left, columns] : {std::pair{0, width}, std::pair{-1, width}, std::pair{3, width + 5}}) {
      CAPTURE(left);
      const ModelInputs other = padded(inputs, left, columns);
      const TextOutput text = read(*model, other, features.get(), 2);
      CHECK(relative_difference(text.logits, expected.logits) <= kTolerance);
      for (std::int64_t row = 0; row < inputs.input_ids.size(0); ++row)
        CHECK(relative_difference(real_rows(text, other, row), real_rows(expected, inputs, row)) <= kTolerance);
      CHECK(text.last_hidden_state.masked_select(other.attention_mask.logical_not().unsqueeze(2))
                .eq(0)
                .all()
                .item<bool>());
    }
  }
}

TEST_CASE("a token read through the cache gives what it gives in the prompt") {
  const c10::AutoGradMode no_grad(false);
  constexpr std::int64_t kSteps = 3;
  FOR_EACH_SUBJECT(subject) {
    const auto model = create(subject);
    for (const Request& request : requests()) {
      CAPTURE(request.text);
      const ModelInputs inputs = model->preprocess({&request, 1});
      const auto features = encode(*model, inputs);
      const std::int64_t length = inputs.input_ids.size(1), read_first = length - kSteps;
      const at::Tensor whole = read(*model, inputs, features.get(), kSteps + 1).logits;
      const auto cache = model->new_cache(1, length);
      ModelInputs piece = inputs;
      piece.input_ids = inputs.input_ids.narrow(1, 0, read_first);
      piece.attention_mask = at::Tensor();
      std::vector<at::Tensor> parts = {model->forward(piece, features.get(), *cache).logits};
      for (std::int64_t i = 0; i < kSteps; ++i) {
        ModelInputs next;
        next.input_ids = inputs.input_ids.narrow(1, read_first + i, 1);
        parts.push_back(model->forward(next, nullptr, *cache).logits);
      }
      CHECK(relative_difference(at::cat(parts, 1), whole) <= kTolerance);
      CHECK(cache->length(0) == length);
    }
  }
}

TEST_CASE("prompts that have ended are left alone while others go on") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    const auto model = create(subject);
    const ModelInputs inputs = model->preprocess(requests());
    const auto features = encode(*model, inputs);
    const auto all = model->new_cache(3, inputs.input_ids.size(1) + 1);
    const auto some = model->new_cache(3, inputs.input_ids.size(1) + 1);
    model->forward(inputs, features.get(), *all);
    model->forward(inputs, features.get(), *some);
    const std::int64_t length = some->length(1);
    const at::Tensor expected = model->forward(step({1, 2, 3}, {true, true, true}), nullptr, *all).logits;
    const at::Tensor logits = model->forward(step({1, 2, 3}, {true, false, true}), nullptr, *some).logits;
    CHECK(relative_difference(logits[0], expected[0]) <= kTolerance);
    CHECK(relative_difference(logits[2], expected[2]) <= kTolerance);
    CHECK(logits[1].eq(0).all().item<bool>());
    CHECK(some->length(1) == length);
  }
}

TEST_CASE("one seed gives one answer, another seed another") {
  FOR_EACH_SUBJECT(subject) {
    const auto model = create(subject), same = create(subject), other = create(subject, config_of(subject, kSeed + 1));
    const auto first = answers(*model, 1);
    CHECK(answers(*model, 1) == first);
    CHECK(answers(*same, 1) == first);
    CHECK(answers(*model, 2) != first);
    CHECK(answers(*other, 1) != first);
  }
}

TEST_CASE("threads get what each would get alone, on one model and on two") {
  FOR_EACH_SUBJECT(subject) {
    // The other model is one of another plugin where there is one.
    const auto found = std::ranges::find_if(subjects(), [&](const Subject& s) { return s.plugin != subject.plugin; });
    const auto model = create(subject);
    const auto other = found != subjects().end() ? create(*found) : create(subject, config_of(subject, kSeed + 1));
    const auto expected = answers(*model, 1), expected_other = answers(*other, 2);
    for (int round = 0; round < 3; ++round) {
      auto first = std::async(std::launch::async, [&] { return answers(*model, 1); });
      auto second = std::async(std::launch::async, [&] { return answers(*model, 1); });
      auto third = std::async(std::launch::async, [&] { return answers(*other, 2); });
      CHECK(first.get() == expected);
      CHECK(second.get() == expected);
      CHECK(third.get() == expected_other);
    }
  }
}

TEST_CASE("a checkpoint that init wrote gives what pretrained: false gives with its seed") {
  const c10::AutoGradMode no_grad(false);
  FOR_EACH_SUBJECT(subject) {
    ModelConfig config = config_of(subject);
    const auto fresh = create(subject, config), other = create(subject, config_of(subject, kSeed + 1));
    config.pretrained = true;
    const auto loaded = create(subject, config);
    const ModelInputs inputs = loaded->preprocess(requests());
    const auto features = encode(*loaded, inputs), fresh_features = encode(*fresh, inputs);
    CHECK(features->last_hidden_state.equal(fresh_features->last_hidden_state));
    const TextOutput text = read(*loaded, inputs, features.get()),
                     expected = read(*fresh, inputs, fresh_features.get());
    CHECK(text.logits.equal(expected.logits));
    CHECK(text.last_hidden_state.equal(expected.last_hidden_state));
    CHECK(!text.logits.equal(run(*other, inputs).logits));
  }
}
