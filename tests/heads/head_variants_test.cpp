// The kinds of heads that model.classifier asks for, on features without a model. run_head() on models is in the
// conformance suite.
#include <filesystem>
#include <limits>
#include <map>

#include "../support.hpp"
#include "toy_head.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/training.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;
namespace fs = std::filesystem;

namespace {

HeadConfig variant(const std::string& type, const std::string& features, const std::string& pooling) {
  HeadConfig config = toy_config();
  config.classifier.type = type;
  config.classifier.features = features;
  config.classifier.pooling = pooling;
  config.classifier.prompt = "How many?";
  return config;
}

std::vector<HeadConfig> variants() {
  std::vector<HeadConfig> all;
  for (const char* type : {"mlp", "linear"}) {
    for (const char* pooling : {"model", "mean", "attention"}) all.push_back(variant(type, "vision", pooling));
    all.push_back(variant(type, "multimodal", "model"));
  }
  return all;
}

/// Two prompts of 4 and 3 positions.
TextOutput formula_text() { return {formula_tensor(2, {2, 4, 10}, 1, 0), {}}; }
ModelInputs text_inputs() {
  ModelInputs inputs;
  inputs.attention_mask = at::ones({2, 4}, at::kBool);
  inputs.attention_mask[1][3].fill_(false);
  return inputs;
}

HeadOutput output_of(const Head& head) {
  const ImageFeatures features = formula_features();
  return head.forward_multimodal(ToyModel(), text_inputs(), &features, formula_text());
}

const Json& goldens() {
  static const Json json = read_json(fs::path(VLMZOO_TEST_DATA) / "goldens" / "heads.json");
  return json;
}

double relative_error(const at::Tensor& got, const Json& expected) {
  const at::Tensor reference = at::tensor(expected.get<std::vector<double>>(), at::kDouble);
  const at::Tensor values = got.detach().flatten().to(at::kDouble);
  if (values.numel() != reference.numel()) return std::numeric_limits<double>::infinity();
  return ((values - reference).abs().max() / reference.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("every kind of head gives PyTorch's numbers") {
  REQUIRE(goldens()["variants"].size() == variants().size());
  for (const Json& golden : goldens()["variants"]) {
    const Head head = formula_head(variant(golden["type"], golden["features"], golden["pooling"]));
    CAPTURE(golden["type"].get<std::string>());
    CAPTURE(head.pooled_name());
    ImageFeatures features = formula_features();
    features.pooler_output = formula_tensor(98, {4, 12}, 4, 0);
    const HeadOutput output =
        head.needs_language() ? head.forward_pooled(formula_tensor(97, {2, 10}, 4, 0)) : head.forward(features);
    CHECK(relative_error(output.logits, golden["logits"]) < 1e-5);
    CHECK(relative_error(output.embeddings, golden["embeddings"]) < 1e-5);
  }
}

TEST_CASE("every kind of head says what it needs, and has the tensors that its features and its type make") {
  struct Expected {
    bool needs_language, poolable;
    std::int64_t width;
    std::vector<std::string> first;  ///< names of tensors, before the classifier's layers
  };
  const std::vector<std::string> projection = {"vision_projection.weight", "vision_projection.bias"};
  const std::map<std::string, Expected> expected = {
      {"mlp vision model", {false, true, 12, projection}},
      {"mlp vision mean", {false, true, 12, projection}},
      {"mlp vision attention", {false, false, 12, {"attention_pooling.query", projection[0], projection[1]}}},
      {"mlp multimodal model", {true, true, 10, {}}},
      {"linear vision model", {false, true, 12, {}}},
      {"linear vision mean", {false, true, 12, {}}},
      {"linear vision attention", {false, false, 12, {"attention_pooling.query"}}},
      {"linear multimodal model", {true, true, 10, {}}}};
  for (const HeadConfig& config : variants()) {
    const ClassifierConfig& c = config.classifier;
    const std::string name = c.type + " " + c.features + " " + c.pooling;
    CAPTURE(name);
    const Head head = fresh_head(config, 1);
    const Expected& is = expected.at(name);
    CHECK(head.needs_language() == is.needs_language);
    CHECK(head.poolable() == is.poolable);
    CHECK(head.pooled_width() == is.width);
    std::vector<std::string> names;
    for (const NamedTensor& named : head.tensors()) names.push_back(named.name);
    std::vector<std::string> all = is.first;
    if (c.type == "mlp") {
      for (const char* layer : {"0", "1"}) {
        for (const char* part : {"linear.weight", "linear.bias", "norm.weight", "norm.bias", "norm.running_mean",
                                 "norm.running_var", "norm.num_batches_tracked"}) {
          all.push_back(std::string("classification_head.layers.") + layer + "." + part);
        }
      }
    }
    all.insert(all.end(), {"classification_head.out.weight", "classification_head.out.bias"});
    CHECK(names == all);
    if (c.type == "linear") CHECK(tensor_of(head, "classification_head.out.weight").size(1) == is.width);
  }
}

TEST_CASE("every kind of head gives a finite gradient to each of its trainable tensors") {
  for (const HeadConfig& config : variants()) {
    Head head = fresh_head(config, 1);
    CAPTURE(config.classifier.type);
    CAPTURE(head.pooled_name());
    const std::vector<TrainedTensor> trained = trained_tensors(head);
    ImageFeatures features = formula_features();
    features.last_hidden_state.requires_grad_(true);
    at::Tensor hidden = formula_tensor(3, {4, 10}, 1, 0).requires_grad_(true);
    const HeadOutput output = head.needs_language() ? head.forward_training(hidden) : head.forward_training(features);
    (output.logits * formula_tensor(4, {4, 3}, 1, 0)).sum().backward();
    for (const TrainedTensor& tensor : trained) {
      CAPTURE(tensor.name);
      REQUIRE(tensor.value.grad().defined());
      CHECK(at::isfinite(tensor.value.grad()).all().item<bool>());
      // What batch norm follows has no use for a bias.
      if (!tensor.name.ends_with("linear.bias") && !tensor.name.ends_with("projection.bias")) {
        CHECK(tensor.value.grad().abs().max().item<double>() > 0);
      }
    }
    const at::Tensor& seen = head.needs_language() ? hidden : features.last_hidden_state;
    CHECK(seen.grad().abs().max().item<double>() > 0);
  }
}

TEST_CASE("every kind of head comes back from its file as it was, for a configuration that names the file alone") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  const ToyModel model;
  for (const HeadConfig& config : variants()) {
    CAPTURE(config.classifier.type);
    for (const bool own : {false, true}) {
      Head head = formula_head(config);
      if (own) head = head.with_own_response_generator(model);
      CAPTURE(head.pooled_name());
      save_head(path, head);
      const Head loaded = load_head(path, model.info(), ModelConfig{});
      CHECK(loaded.pooled_name() == head.pooled_name());
      CHECK(loaded.config().classifier.type == config.classifier.type);
      CHECK(loaded.needs_language() == head.needs_language());
      CHECK(loaded.response_generator().shared() == !own);
      const HeadOutput expected = output_of(head), output = output_of(loaded);
      CHECK(at::equal(output.logits, expected.logits));
      CHECK(at::equal(output.embeddings, expected.embeddings));
      CHECK(at::equal(output.response_logits, expected.response_logits));
    }
  }
}

TEST_CASE("attention pooling starts as the mean, and looks where its query points, never at padding") {
  ImageFeatures features = formula_features();
  features.pooler_output = at::ones({4, 12});
  CHECK(at::allclose(attention_pool(features, at::zeros({12})), mean_pool(features), 1e-5, 1e-6));
  // Far along one token's direction all weight falls on it. None is like it but for a shift, which LayerNorm takes
  // away.
  const at::Tensor token = features.last_hidden_state[3][1];
  token.zero_();
  token[4].fill_(5);
  const at::Tensor query = (token - token.mean()) * 1e4;
  CHECK(at::allclose(attention_pool(features, query)[2], token, 1e-5, 1e-6));
  const at::Tensor clean = attention_pool(features, formula_tensor(7, {12}, 4, 0));
  for (const std::int64_t row : {1, 3, 5}) {
    features.last_hidden_state[row].narrow(0, 3, 2).fill_(std::numeric_limits<float>::infinity());
  }
  features.last_hidden_state.requires_grad_(true);
  const at::Tensor pooled = attention_pool(features, formula_tensor(7, {12}, 4, 0));
  CHECK(at::equal(pooled, clean));
  pooled.sum().backward();
  CHECK(features.last_hidden_state.grad()[1][3].abs().sum().item<float>() == 0);
  CHECK(at::isfinite(features.last_hidden_state.grad()).all().item<bool>());
}

TEST_CASE("features that a kind of head can't work on are refused with the reason") {
  const Head attention = formula_head(variant("mlp", "vision", "attention")),
             multimodal = formula_head(variant("mlp", "multimodal", "model"));
  Head training = attention;
  const auto refuses = [](const auto& work, const char* reason) {
    const auto error = error_of(work);
    REQUIRE(error);
    CHECK(error->code() == ErrorCode::kUnsupported);
    CAPTURE(error->what());
    CHECK(contains(*error, reason));
  };
  refuses([&] { attention.forward_pooled(at::zeros({2, 12})); }, "pooling is attention");
  refuses([&] { training.forward_training(at::zeros({2, 12})); }, "pooling is attention");
  refuses([&] { attention.pool(formula_features()); }, "pooling is attention");
  refuses([&] { multimodal.forward(formula_features()); }, "features are multimodal");
  refuses([&] { multimodal.pool(formula_features()); }, "features are multimodal");
  // The pooler's output alone has no tokens to attend to.
  ImageFeatures pooled;
  pooled.pooler_output = at::ones({1, 12});
  pooled.tiles_per_image = {1};
  const auto error = error_of([&] { attention.forward(pooled); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
}

TEST_CASE("a head on multimodal features classifies the last position of each prompt, without any picture's features") {
  const Head head = formula_head(variant("mlp", "multimodal", "model"));
  const ModelInputs inputs = text_inputs();
  const HeadOutput output = head.forward_multimodal(ToyModel(), inputs, nullptr, formula_text());
  CHECK(output.logits.sizes() == at::IntArrayRef({2, 3}));
  CHECK(at::equal(output.embeddings, output.multimodal_embeddings));
  CHECK(at::equal(output.multimodal_embeddings, last_positions(inputs, formula_text())));
  CHECK(at::equal(output.logits, head.forward_pooled(output.multimodal_embeddings).logits));
}

TEST_CASE("a linear head's embeddings are the features, and the layers of its configuration don't count") {
  HeadConfig config = variant("linear", "vision", "mean");
  config.classifier.hidden_dims = {700, 50};
  const Head head = formula_head(config);
  const at::Tensor pooled = mean_pool(formula_features());
  CHECK(at::equal(head.forward(formula_features()).embeddings, pooled));
  CHECK(head.config().classifier.hidden_dims.empty());
}

TEST_CASE("a configuration and a head file of different kinds are an error that names both sides") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  HeadConfig stored = toy_config();
  ModelConfig config;
  std::vector<std::string> named;
  SUBCASE("other features") {
    config.classifier.features = "multimodal";
    named = {"\"features\":\"vision\"", "\"features\":\"multimodal\""};
  }
  SUBCASE("another prompt") {
    stored = variant("mlp", "multimodal", "model");
    config.classifier.prompt = "Anything else?";
    named = {"How many?", "Anything else?"};
  }
  SUBCASE("another pooling") {
    stored = variant("mlp", "vision", "attention");
    config.classifier.pooling = "mean";
    named = {"\"pooling\":\"attention\"", "\"pooling\":\"mean\""};
  }
  SUBCASE("a linear one asked for") {
    config.classifier.type = "linear";
    named = {"\"type\":\"mlp\"", "\"type\":\"linear\""};
  }
  SUBCASE("layers asked for, of a linear one") {
    stored = variant("linear", "vision", "model");
    config.classifier.hidden_dims = {5};
    config.classifier.dropout_rates = {0};
    named = {"\"hidden_dims\":[]", "\"hidden_dims\":[5]"};
  }
  save_head(path, fresh_head(stored, 1));
  const auto error = error_of([&] { load_head(path, ToyModel().info(), config); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
  CAPTURE(error->what());
  for (const std::string& text : named) CHECK(contains(*error, text));
}

TEST_CASE("keys of the classifier that a configuration leaves at their defaults are the file's, one by one") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  save_head(path, fresh_head(variant("mlp", "vision", "attention"), 1));
  ModelConfig config;
  config.classifier.pooling = "attention";
  CHECK(load_head(path, ToyModel().info(), config).config().classifier.hidden_dims == std::vector<std::int64_t>{8, 6});
  // The prompt of an earlier configuration doesn't matter to a head on vision.
  config.classifier.prompt = "How many?";
  CHECK(!load_head(path, ToyModel().info(), config).needs_language());
  save_head(path, fresh_head(variant("linear", "multimodal", "model"), 1));
  config = {};
  config.classifier.type = "linear";
  config.classifier.hidden_dims = {5};
  config.classifier.dropout_rates = {0};
  CHECK(load_head(path, ToyModel().info(), config).config().classifier.prompt == "How many?");
}

TEST_CASE("a head file from before there were variants is the default one; unknown kinds are refused") {
  const TemporaryFolder folder;
  const fs::path good = folder / "good.safetensors", path = folder / "head.safetensors";
  const Head head = formula_head(toy_config());
  save_head(good, head);
  const SafetensorsFile file(good);
  const auto write = [&](const std::string& classifier) {
    std::map<std::string, std::string> metadata = file.metadata();
    metadata["classifier"] = classifier;
    SafetensorsWriter writer(path, file.entries(), metadata);
    for (const TensorEntry& entry : file.entries()) {
      std::string bytes(entry.bytes(), '\0');
      file.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
      writer.write(std::as_bytes(std::span(bytes)));
    }
    writer.commit();
  };
  const std::string old = R"({"hidden_dims":[8,6],"dropout_rates":[0.2,0.1],"batch_norm":true,"activation":"gelu")";
  write(old + "}");
  const Head loaded = load_head(path, ToyModel().info(), ModelConfig{});
  CHECK(loaded.pooled_name() == head.pooled_name());
  CHECK(at::equal(output_of(loaded).logits, output_of(head).logits));
  for (const char* more : {R"(,"type":"conv"})", R"(,"features":"text"})", R"(,"pooling":"max"})", R"(,"pooling":1})",
                           R"(,"features":"multimodal","pooling":"mean"})", R"(,"features":"multimodal","prompt":""})",
                           R"(,"type":"mlp | linear"})"}) {
    CAPTURE(more);
    write(old + more);
    const auto error = error_of([&] { load_head(path, ToyModel().info(), ModelConfig{}); });
    REQUIRE(error);
    CHECK(error->code() == ErrorCode::kCorrupt);
  }
}
