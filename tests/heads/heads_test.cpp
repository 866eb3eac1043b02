#include "vlmzoo/heads.hpp"

#include <cmath>
#include <filesystem>
#include <limits>

#include "toy_head.hpp"
#include "vlmzoo/json.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

const Json& goldens() {
  static const Json json =
      read_json(std::filesystem::path(__FILE__).parent_path().parent_path() / "goldens" / "heads.json");
  return json;
}

/// Largest difference over the largest expected value; fp32 sums of this length differ by a few 1e-7 between machines.
double relative_error(const at::Tensor& got, const Json& expected) {
  const at::Tensor reference = at::tensor(expected.get<std::vector<double>>(), at::kDouble);
  const at::Tensor values = got.detach().flatten().to(at::kDouble);
  if (values.numel() != reference.numel()) return std::numeric_limits<double>::infinity();
  return ((values - reference).abs().max() / reference.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("a head gives PyTorch's numbers for every activation, with and without batch norm") {
  const at::Tensor pooled = pool_image_features(formula_features());
  CHECK(relative_error(pooled, goldens()["pooled"]) < 1e-5);
  REQUIRE(goldens()["cases"].size() == 8);
  for (const Json& golden : goldens()["cases"]) {
    HeadConfig config = toy_config(golden["activation"], golden["batch_norm"]);
    CAPTURE(config.classifier.activation);
    CAPTURE(config.classifier.batch_norm);
    const Head head = formula_head(config);
    const HeadOutput output = head.forward(formula_features());
    CHECK(output.logits.sizes() == at::IntArrayRef({4, 3}));
    CHECK(output.embeddings.sizes() == at::IntArrayRef({4, 10}));
    CHECK(relative_error(output.logits, golden["logits"]) < 1e-5);
    CHECK(relative_error(output.embeddings, golden["embeddings"]) < 1e-5);
    CHECK(relative_error(probabilities(output.logits), golden["probabilities"]) < 1e-5);
    CHECK(!output.response_logits.defined());

    config.classifier.dropout_rates = {0, 0};
    Head training = formula_head(config);
    at::Tensor weight = tensor_of(training, "vision_projection.weight").requires_grad_(true);
    const at::Tensor logits = training.forward_training(pooled).logits;
    CHECK(relative_error(logits, golden["training_logits"]) < 1e-5);
    logits.square().sum().backward();
    CHECK(relative_error(weight.grad(), golden["training_gradient"]) < 1e-5);
    if (config.classifier.batch_norm) {
      const std::string norm = "classification_head.layers.1.norm.";
      CHECK(relative_error(tensor_of(training, norm + "running_mean"), golden["training_running_mean"]) < 1e-5);
      CHECK(relative_error(tensor_of(training, norm + "running_var"), golden["training_running_var"]) < 1e-5);
      CHECK(tensor_of(training, norm + "num_batches_tracked").item<std::int64_t>() == 8);
    }
  }
}

TEST_CASE("pooling takes the pooler's output where there is one, in fp32") {
  ImageFeatures features = formula_features();
  features.pooler_output = formula_tensor(1, {4, 12}, 1, 0).to(at::kBFloat16);
  const at::Tensor pooled = pool_image_features(features);
  CHECK((pooled.scalar_type() == at::kFloat));
  CHECK(at::equal(pooled, features.pooler_output.to(at::kFloat)));
}

TEST_CASE("pooling leaves out what padding holds, infinities included, in the forward and in the gradient") {
  ImageFeatures features = formula_features();
  const at::Tensor clean = pool_image_features(features);
  features.last_hidden_state[1].narrow(0, 3, 2).fill_(std::numeric_limits<float>::infinity());
  features.last_hidden_state.requires_grad_(true);
  const at::Tensor pooled = pool_image_features(features);
  CHECK(at::equal(clean, pooled));
  pooled.sum().backward();
  const at::Tensor gradient = features.last_hidden_state.grad();
  CHECK(gradient[1][3].abs().sum().item<float>() == 0);
  CHECK(gradient[0][0][0].item<float>() == doctest::Approx(1.0 / 8));  // 5 + 3 valid tokens in the first picture
}

TEST_CASE("pooling without a mask is the mean over all tokens of a picture's tiles") {
  ImageFeatures features = formula_features();
  features.valid = at::Tensor();
  const at::Tensor expected = features.last_hidden_state.narrow(0, 3, 3).flatten(0, 1).mean(0);
  CHECK(at::allclose(pool_image_features(features)[2], expected, 1e-6, 1e-7));
  features.last_hidden_state = features.last_hidden_state.to(at::kBFloat16);
  const at::Tensor low = pool_image_features(features);
  CHECK((low.scalar_type() == at::kFloat));  // summed in fp32: bf16 inputs, but no bf16 sum
  CHECK(at::equal(low[2], features.last_hidden_state.narrow(0, 3, 3).to(at::kFloat).flatten(0, 1).mean(0)));
}

TEST_CASE("pooling refuses shapes that don't fit each other") {
  ImageFeatures features = formula_features();
  SUBCASE("tiles that don't add up") { features.tiles_per_image = {2, 1, 3}; }
  SUBCASE("a mask of another shape") { features.valid = at::ones({7, 4}, at::kBool); }
  SUBCASE("a mask of numbers") { features.valid = at::ones({7, 5}, at::kFloat); }
  SUBCASE("a picture without a valid token") { features.valid[2].fill_(false); }
  SUBCASE("a picture without tiles") { features.tiles_per_image = {2, 1, 3, 1, 0}; }
  SUBCASE("negative tiles") { features.tiles_per_image = {8, -1}; }
  SUBCASE("no features at all") { features.last_hidden_state = at::Tensor(); }
  SUBCASE("a pooler's output for other pictures") { features.pooler_output = at::zeros({3, 12}); }
  const auto error = error_of([&] { pool_image_features(features); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
}

TEST_CASE("features of another width are refused") {
  const Head head = formula_head(toy_config());
  const auto error = error_of([&] { head.forward_pooled(at::zeros({2, 13})); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
  CHECK(contains(*error, "[2, 13]"));
  CHECK(contains(*error, "12"));
}

TEST_CASE("a fresh head has the same values everywhere, other ones for another seed, and PyTorch's range") {
  const HeadConfig config = toy_config();
  const Head head = fresh_head(config, 3), again = fresh_head(config, 3), other = fresh_head(config, 4);
  for (std::size_t i = 0; i < head.tensors().size(); ++i) {
    CHECK(at::equal(head.tensors()[i].tensor, again.tensors()[i].tensor));
  }
  const at::Tensor weight = tensor_of(head, "vision_projection.weight");
  CHECK(!at::equal(weight, tensor_of(other, "vision_projection.weight")));
  const double bound = 1 / std::sqrt(12.0);
  CHECK(weight.abs().max().item<double>() <= bound);
  CHECK(weight.abs().max().item<double>() > 0.9 * bound);
  // Exact values, so that a change of the generator can't go unnoticed: heads would train differently.
  CHECK(weight[0][0].item<float>() == 0.22664322F);
  CHECK(weight[9][11].item<float>() == 0.0792254657F);
  CHECK(tensor_of(head, "classification_head.layers.0.norm.running_var").sum().item<float>() == 8);
  CHECK(tensor_of(head, "classification_head.layers.0.norm.bias").abs().sum().item<float>() == 0);
}

TEST_CASE("every trainable tensor of a head and its features get a finite gradient, with dropout and batch norm") {
  for (const char* activation : {"gelu", "relu", "silu", "tanh"}) {
    Head head = fresh_head(toy_config(activation), 1);
    for (const NamedTensor& named : head.tensors()) {
      CHECK(named.trainable == (named.name.find("running_") == std::string::npos && !named.name.ends_with("tracked")));
      if (named.trainable) named.tensor.requires_grad_(true);
    }
    ImageFeatures features = formula_features();
    features.last_hidden_state.requires_grad_(true);
    head.forward_training(pool_image_features(features)).logits.square().sum().backward();
    for (const NamedTensor& named : head.tensors()) {
      CAPTURE(named.name);
      CHECK(named.tensor.grad().defined() == named.trainable);
      if (named.trainable) CHECK(at::isfinite(named.tensor.grad()).all().item<bool>());
    }
    CHECK(features.last_hidden_state.grad().abs().sum().item<float>() > 0);
  }
}

TEST_CASE("inference changes nothing in a head") {
  const Head head = formula_head(toy_config());
  const at::Tensor pooled = pool_image_features(formula_features());
  const at::Tensor first = head.forward_pooled(pooled).logits;
  CHECK(at::equal(first, head.forward_pooled(pooled).logits));
  CHECK(at::allclose(first[2], head.forward_pooled(pooled.narrow(0, 2, 1)).logits[0], 1e-5, 1e-6));
  CHECK(tensor_of(head, "classification_head.layers.0.norm.num_batches_tracked").item<std::int64_t>() == 7);
}

TEST_CASE("batch norm refuses a training batch of one; without it one picture is enough") {
  Head head = fresh_head(toy_config(), 1);
  const auto error = error_of([&] { head.forward_training(at::zeros({1, 12})); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kConfig);
  CHECK(contains(*error, "batch_size"));
  Head plain = fresh_head(toy_config("gelu", false), 1);
  CHECK(plain.forward_training(at::zeros({1, 12})).logits.size(0) == 1);
  HeadConfig probe = toy_config();
  probe.classifier = {{}, {}, true, "gelu"};
  CHECK(fresh_head(probe, 1).forward_training(at::zeros({1, 12})).logits.size(0) == 1);
}

TEST_CASE("the multimodal embedding is the last real position of each prompt, on either side of the padding") {
  const ToyModel model;
  const Head head = formula_head(toy_config());
  TextOutput text;
  text.last_hidden_state = formula_tensor(2, {2, 4, 10}, 1, 0);
  ModelInputs inputs;
  CHECK(at::equal(head.forward_multimodal(model, inputs, nullptr, text).multimodal_embeddings,
                  text.last_hidden_state.select(1, 3)));
  inputs.attention_mask = at::ones({2, 4}, at::kBool);
  inputs.attention_mask[0][3].fill_(false);
  inputs.attention_mask[1][0].fill_(false);
  const ImageFeatures features = formula_features();
  const HeadOutput output = head.forward_multimodal(model, inputs, &features, text);
  CHECK(at::equal(output.multimodal_embeddings[0], text.last_hidden_state[0][2]));
  CHECK(at::equal(output.multimodal_embeddings[1], text.last_hidden_state[1][3]));
  CHECK(at::equal(output.response_logits, model.lm_head(output.multimodal_embeddings)));
  CHECK(at::equal(output.logits, head.forward(features).logits));
  inputs.attention_mask[1].fill_(false);
  const auto error = error_of([&] { head.forward_multimodal(model, inputs, nullptr, text); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
}

TEST_CASE("a configuration that makes no head is refused") {
  ModelConfig config;
  SUBCASE("a rate too few") { config.classifier.dropout_rates = {0.2}; }
  SUBCASE("a layer without width") { config.classifier.hidden_dims = {768, 0}; }
  SUBCASE("no classes") { config.num_classes = 0; }
  SUBCASE("absurdly many classes") { config.num_classes = std::numeric_limits<std::int64_t>::max(); }
  SUBCASE("a class twice") { config.class_names = {"a", "a"}; }
  SUBCASE("an unknown activation") { config.classifier.activation = "softplus"; }
  const auto error = error_of([&] { fresh_head(head_config(ToyModel().info(), config), 0); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kConfig);
}

TEST_CASE("a head is made of exactly its tensors, in any order") {
  const Head head = formula_head(toy_config());
  std::vector<NamedTensor> tensors = head.tensors();
  std::reverse(tensors.begin(), tensors.end());
  const at::Tensor pooled = pool_image_features(formula_features());
  CHECK(at::equal(Head(head.config(), tensors).forward_pooled(pooled).logits, head.forward_pooled(pooled).logits));
  SUBCASE("one missing") { tensors.pop_back(); }
  SUBCASE("one of another type") { tensors.front().tensor = tensors.front().tensor.to(at::kDouble); }
  SUBCASE("one of another shape") { tensors.front().tensor = at::zeros({4}); }
  const auto error = error_of([&] { Head(head.config(), tensors); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
}
