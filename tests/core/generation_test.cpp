#include "vlmzoo/generation.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "support.hpp"
#include "tiny_models.hpp"
#include "vlmzoo/error.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using test::code_of;

namespace {

const fs::path kTests = VLMZOO_TEST_DATA;

GenerationConfig greedy(std::int64_t tokens) {
  GenerationConfig config;
  config.max_new_tokens = tokens;
  config.temperature = 0;
  return config;
}

/// So hot that most answers differ with the random numbers.
GenerationConfig sampled(std::int64_t tokens, std::int64_t seed) {
  GenerationConfig config = greedy(tokens);
  config.temperature = 2;
  config.repetition_penalty = 1.1;
  config.seed = seed;
  return config;
}

/// The tiny InternVL, one for all tests.
const Model& tiny() {
  static const std::unique_ptr<Model> model = test::open_model(test::checkpoint("internvl/release", 0));
  return *model;
}

/// Prompts of different lengths and pictures.
const std::vector<Request>& requests() {
  const auto image = [](const char* name) { return load_image(kTests / "data" / "images" / name); };
  static const std::vector<Request> all = {
      {"How many receipts are there?", {image("landscape.jpg")}},
      {"Hi", {}},
      {"Compare <image> with <image>, please.", {image("tiny_37x23.png"), image("square.png")}}};
  return all;
}

bool same(const Answer& a, const Answer& b) { return a.ids == b.ids && a.text == b.text && a.finish == b.finish; }

/// A model that says what it is told to: token n of the answer is script[n], and the last one for ever.
class ScriptedModel : public Model {
 public:
  ScriptedModel(std::vector<TokenId> script, std::vector<TokenId> stop_ids)
      : script_(std::move(script)), tokenizer_(kTests / "data" / "tokenizer" / "tokenizer.json") {
    info_.vocab_size = 640;  // beyond the tokenizer's 612
    info_.context_length = 1000;
    info_.stop_ids = std::move(stop_ids);
  }
  const ModelInfo& info() const override { return info_; }
  const Parameters& parameters() const override { return parameters_; }
  ModelInputs preprocess(std::span<const Request>, bool) const override { return inputs(1); }
  ImageFeatures encode_images(const ModelInputs&) const override { return {}; }
  std::unique_ptr<KvCache> new_cache(std::int64_t batch, std::int64_t capacity) const override {
    return std::make_unique<KvCache>(KvCacheShape{1, batch, capacity, 1, 2}, at::kFloat, at::kCPU);
  }
  TextOutput forward(const ModelInputs& inputs, const ImageFeatures*, KvCache& cache, std::int64_t) const override {
    const std::int64_t batch = inputs.input_ids.size(0);
    at::Tensor logits = at::zeros({batch, 1, info_.vocab_size});
    for (std::int64_t b = 0; b < batch; ++b) {
      cache.advance(b, inputs.input_ids.size(1));
      const auto step = std::min(static_cast<std::size_t>(cache.length(b) - 1), script_.size() - 1);
      logits[b][0][script_[step]] = 10.0F;
    }
    return {{}, logits};
  }
  at::Tensor lm_head(const at::Tensor& hidden) const override { return hidden; }
  const Tokenizer* tokenizer() const override { return &tokenizer_; }

  /// `batch` prompts of one token.
  static ModelInputs inputs(std::int64_t batch) {
    ModelInputs inputs;
    inputs.input_ids = at::zeros({batch, 1}, at::kLong);
    return inputs;
  }

 private:
  std::vector<TokenId> script_;
  Tokenizer tokenizer_;
  ModelInfo info_;
  Parameters parameters_;
};

/// A scripted answer of `text`; the pieces that were shown while it grew, joined, have to be its text.
Answer say(const std::vector<TokenId>& script, const std::vector<std::string>& stop, std::int64_t tokens,
           std::vector<std::string>* pieces = nullptr) {
  const ScriptedModel model(script, {602});
  GenerationConfig config = greedy(tokens);
  config.stop = stop;
  std::string shown;
  const auto answers = generate(model, ScriptedModel::inputs(1), config, [&](std::size_t, std::string_view piece) {
    shown += piece;
    if (pieces != nullptr) pieces->emplace_back(piece);
  });
  CHECK(shown == answers.at(0).text);
  return answers.at(0);
}

std::vector<TokenId> ids_of(const std::string& text) {
  return Tokenizer(kTests / "data" / "tokenizer" / "tokenizer.json").encode(text);
}

}  // namespace

TEST_CASE("the filters keep the tokens that transformers keeps, with its probabilities") {
  // transformers 5.23: RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper.
  const at::Tensor logits = at::tensor({2.0F, 0.5F, -1.0F, 3.0F, 0.5F, 1.5F, -0.5F, 0.5F, 2.5F, -2.0F, 1.5F, 0.0F});
  const std::vector<TokenId> seen = {3, 3, 6, 0};
  const struct {
    double temperature;
    std::int64_t top_k;
    double top_p, penalty;
    std::set<TokenId> kept;
    double likeliest;
  } rows[] = {{1, 0, 1, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0.360755},
              {1, 3, 1, 1, {0, 3, 8}, 0.506480},
              {1, 5, 1, 1, {0, 3, 5, 8, 10}, 0.413109},
              {1, 7, 1, 1, {0, 1, 3, 4, 5, 7, 8, 10}, 0.374964},  // ties with the seventh stay
              {1, 0, 0.5, 1, {3, 8}, 0.622459},
              {0.5, 0, 0.9, 1, {0, 3, 8}, 0.665241},
              {2, 0, 0.9, 1, {0, 1, 3, 4, 5, 7, 8, 10, 11}, 0.226618},
              {1, 5, 0.8, 1, {0, 3, 8}, 0.506480},
              {0.7, 50, 0.9, 1, {0, 3, 5, 8, 10}, 0.509209},
              {1, 3, 1, 2, {3, 5, 8, 10}, 0.475367},
              {0.7, 6, 0.9, 1.3, {0, 3, 5, 8, 10}, 0.401241},
              {1, 2, 1, 0.5, {0, 3}, 0.880797},
              {1, 1, 0.5, 1, {3}, 1},
              {1, 0, 0.01, 1, {3}, 1}};
  constexpr int kDraws = 2000;
  for (const auto& row : rows) {
    CAPTURE(row.temperature);
    CAPTURE(row.top_k);
    CAPTURE(row.top_p);
    CAPTURE(row.penalty);
    GenerationConfig config;
    config.temperature = row.temperature;
    config.top_k = row.top_k;
    config.top_p = row.top_p;
    config.repetition_penalty = row.penalty;
    std::map<TokenId, int> drawn;
    for (int i = 0; i < kDraws; ++i) ++drawn[sample(logits, config, seen, (i + 0.5) / kDraws)];
    std::set<TokenId> kept;
    int most = 0;
    for (const auto& [id, count] : drawn) {
      kept.insert(id);
      most = std::max(most, count);
    }
    CHECK(kept == row.kept);
    CHECK(most / static_cast<double>(kDraws) == doctest::Approx(row.likeliest).epsilon(0.003));
    CHECK(sample(logits, config, seen, 0.0) == sample(logits, config, seen, 0.0));
    CHECK(kept.contains(sample(logits, config, seen, std::nextafter(1.0, 0.0))));
  }
}

TEST_CASE("temperature 0 takes the best token, after the penalty where there is one") {
  const at::Tensor logits = at::tensor({1.0F, 4.0F, 3.0F, -1.0F});
  const std::vector<TokenId> seen = {1, 1, -7, 99};  // ids outside the vocabulary are no matter
  GenerationConfig config = greedy(1);
  for (const double uniform : {0.0, 0.5, 0.999}) CHECK(sample(logits, config, seen, uniform) == 1);
  config.repetition_penalty = 1.3;  // 4 / 1.3 > 3: once, however often it was seen
  CHECK(sample(logits, config, seen, 0) == 1);
  config.repetition_penalty = 1.4;
  CHECK(sample(logits, config, seen, 0) == 2);
  CHECK(sample(at::tensor({-1.0F, -1.5F}), config, std::vector<TokenId>{0}, 0) == 0);  // -1.4
  config.repetition_penalty = 1.6;
  CHECK(sample(at::tensor({-1.0F, -1.5F}), config, std::vector<TokenId>{0}, 0) == 1);  // -1.6
  config = {};
  config.temperature = 1e-40;
  CHECK(sample(logits, config, {}, 0.9) == 1);
}

TEST_CASE("logits that are not finite are an error") {
  for (const float value : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    for (const double temperature : {0.0, 1.0}) {
      GenerationConfig config;
      config.temperature = temperature;
      CHECK(code_of([&] { sample(at::tensor({1.0F, value, 2.0F}), config, {}, 0.5); }) == ErrorCode::kInternal);
    }
  }
}

TEST_CASE("a prompt has the same answer alone, in a batch, and padded on either side") {
  const auto& all = requests();
  const ModelInputs batch = tiny().preprocess(all);
  REQUIRE(batch.attention_mask.defined());
  ModelInputs left = batch;
  left.input_ids = batch.input_ids.clone();
  left.attention_mask = batch.attention_mask.clone();
  const std::int64_t width = batch.input_ids.size(1);
  for (std::int64_t row = 0; row < batch.input_ids.size(0); ++row) {
    const auto length = batch.attention_mask[row].sum().item<std::int64_t>();
    left.input_ids[row] = batch.input_ids[row].roll(width - length);
    left.attention_mask[row] = batch.attention_mask[row].roll(width - length);
  }
  for (const GenerationConfig& config : {greedy(12), sampled(12, 3)}) {
    const std::vector<Answer> together = generate(tiny(), batch, config), padded_left = generate(tiny(), left, config);
    REQUIRE(together.size() == all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(i);
      CHECK(same(generate(tiny(), tiny().preprocess({&all[i], 1}), config).at(0), together[i]));
      CHECK(same(padded_left[i], together[i]));
    }
  }
}

TEST_CASE("a prompt read in pieces gives the logits of a prompt read at once") {
  const c10::AutoGradMode no_grad(false);
  const ModelInputs inputs = tiny().preprocess({&requests()[1], 1});
  const std::int64_t length = inputs.input_ids.size(1);
  const auto whole_cache = tiny().new_cache(1, length), cache = tiny().new_cache(1, length);
  const at::Tensor whole = tiny().forward(inputs, nullptr, *whole_cache, length).logits;
  std::vector<at::Tensor> parts;
  for (std::int64_t from = 0, size = 3; from < length; from += size, size = 1 + from % 3) {
    const std::int64_t count = std::min(size, length - from);
    ModelInputs piece;
    piece.input_ids = inputs.input_ids.narrow(1, from, count);
    parts.push_back(tiny().forward(piece, nullptr, *cache, count).logits);
  }
  const at::Tensor joined = at::cat(parts, 1);
  REQUIRE(joined.sizes() == whole.sizes());
  CHECK(((joined - whole).abs().max() / whole.abs().max()).item<double>() <= 1e-5);
  CHECK(cache->length(0) == length);
}

TEST_CASE("one seed gives one answer, another seed another") {
  const ModelInputs inputs = tiny().preprocess({&requests()[1], 1});
  const Answer first = generate(tiny(), inputs, sampled(24, 1)).at(0);
  CHECK(same(generate(tiny(), inputs, sampled(24, 1)).at(0), first));
  CHECK(generate(tiny(), inputs, sampled(24, 2)).at(0).ids != first.ids);
  CHECK(generate(tiny(), inputs, greedy(24)).at(0).ids != first.ids);
}

TEST_CASE("two threads that use one model get what each would get alone") {
  const ModelInputs inputs = tiny().preprocess(requests());
  const std::vector<Answer> expected = generate(tiny(), inputs, sampled(16, 5));
  std::vector<std::vector<Answer>> got(2);
  {
    std::vector<std::jthread> threads;
    for (auto& answers : got)
      threads.emplace_back([&] { answers = generate(tiny(), tiny().preprocess(requests()), sampled(16, 5)); });
  }
  for (const auto& answers : got) {
    REQUIRE(answers.size() == expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(same(answers[i], expected[i]));
  }
}

TEST_CASE("what answers are made from is shown once, also when no answer is wanted") {
  const ModelInputs inputs = tiny().preprocess(requests());
  for (const std::int64_t tokens : {0, 3}) {
    std::vector<at::Tensor> logits;
    const auto answers = generate(tiny(), inputs, greedy(tokens), {}, nullptr,
                                  [&](const ImageFeatures* features, const TextOutput& output) {
                                    REQUIRE(features != nullptr);
                                    CHECK(features->last_hidden_state.size(0) == inputs.pixel_values.size(0));
                                    CHECK(output.last_hidden_state.size(1) == inputs.input_ids.size(1));
                                    logits.push_back(output.logits);
                                  });
    REQUIRE(logits.size() == 1);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      CHECK(answers[i].ids.empty() == (tokens == 0));
      if (tokens == 0) continue;
      const auto row = static_cast<std::int64_t>(i);
      CHECK(answers[i].ids.front() == logits.front()[row][0].argmax().item<std::int64_t>());
    }
  }
}

TEST_CASE("an answer has at most max_new_tokens tokens, and a prompt that leaves no room for them is refused") {
  const ModelInputs inputs = tiny().preprocess(requests());
  GenerationTimes times;
  for (const Answer& answer : generate(tiny(), inputs, greedy(0), {}, &times)) {
    CHECK(answer.ids.empty());
    CHECK(answer.text.empty());
    CHECK(answer.finish == FinishReason::kLength);
  }
  CHECK(times.prompt_tokens == inputs.attention_mask.sum().item<std::int64_t>());
  for (const Answer& answer : generate(tiny(), inputs, greedy(1), {}, &times)) CHECK(answer.ids.size() == 1);
  CHECK(times.decode_steps == 0);

  const std::int64_t room = tiny().info().context_length - inputs.input_ids.size(1);
  for (const std::int64_t tokens : {room + 1, std::numeric_limits<std::int64_t>::max(), std::int64_t{-1}}) {
    CHECK(code_of([&] { generate(tiny(), inputs, greedy(tokens)); }) == ErrorCode::kUsage);
  }
  CHECK_THROWS_WITH_AS(generate(tiny(), inputs, greedy(room + 1)), doctest::Contains("context of 2048"), Error);
}

TEST_CASE("inputs that are no batch of prompts are refused; a batch of none has no answers") {
  const ScriptedModel model({65}, {});
  CHECK(code_of([&] { generate(model, {}, greedy(2)); }) == ErrorCode::kMismatch);
  ModelInputs inputs = ScriptedModel::inputs(2);
  inputs.attention_mask = at::full({2, 3}, true, at::kBool);
  CHECK(code_of([&] { generate(model, inputs, greedy(2)); }) == ErrorCode::kMismatch);
  CHECK(generate(model, ScriptedModel::inputs(0), greedy(2)).empty());
}

TEST_CASE("what is streamed of each answer of a batch is its text") {
  for (const GenerationConfig& config : {greedy(20), sampled(20, 8)}) {
    std::vector<std::string> shown(requests().size());
    const auto answers = generate(tiny(), tiny().preprocess(requests()), config,
                                  [&](std::size_t index, std::string_view piece) { shown.at(index) += piece; });
    for (std::size_t i = 0; i < answers.size(); ++i) CHECK(answers[i].text == shown[i]);
  }
}

TEST_CASE("a stop string ends the answer wherever it lies, and nothing of it is shown") {
  const std::string text = "The total is 12.50, thank you.";
  const std::vector<TokenId> script = ids_of(text);
  const auto tokens = static_cast<std::int64_t>(script.size());
  CHECK(say(script, {}, tokens).text == text);
  for (std::size_t from = 0; from < text.size(); ++from) {
    for (const std::size_t length : {1, 2, 5, 11}) {
      const std::string stop = text.substr(from, length);
      CAPTURE(stop);
      const Answer answer = say(script, {"never", stop, ""}, tokens);
      CHECK(answer.text == text.substr(0, text.find(stop)));
      CHECK(answer.finish == FinishReason::kStopString);
    }
  }
  // The earliest of several, also when it overlaps its own beginning.
  CHECK(say(ids_of("aaab and more"), {"more", "aab"}, 20).text == "a");
}

TEST_CASE("text that only began a stop string is shown at the end") {
  std::vector<std::string> pieces;
  std::vector<TokenId> script = ids_of("wait for the en");
  const auto tokens = static_cast<std::int64_t>(script.size());
  Answer answer = say(script, {"ending"}, tokens, &pieces);
  CHECK(answer.text == "wait for the en");
  CHECK(answer.finish == FinishReason::kLength);
  CHECK(pieces.back() == "en");
  script.push_back(602);
  answer = say(script, {"ending"}, tokens + 5);
  CHECK(answer.text == "wait for the en");
  CHECK(answer.finish == FinishReason::kStopToken);
  CHECK(answer.ids == script);  // with the stop token
}

TEST_CASE("only complete characters are shown, and ids without text show nothing") {
  std::vector<TokenId> script = ids_of("é世🙂");
  REQUIRE(script.size() > 3);  // the tiny vocabulary spells them in bytes
  std::vector<std::string> pieces;
  CHECK(say(script, {}, static_cast<std::int64_t>(script.size()), &pieces).text == "é世🙂");
  CHECK(pieces == std::vector<std::string>{"é", "世", "🙂"});
  CHECK(say(script, {}, static_cast<std::int64_t>(script.size()) - 1).text == "é世\uFFFD");
  CHECK(say(script, {"世"}, static_cast<std::int64_t>(script.size())).text == "é");

  script = ids_of("ab");
  script.insert(script.begin() + 1, {601, 639});  // a special token, and a row of the embedding that no token has
  CHECK(say(script, {}, static_cast<std::int64_t>(script.size())).text == "ab");
}
