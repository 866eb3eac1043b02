#include <functional>
#include <map>

#include "../support.hpp"
#include "toy_head.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/safetensors.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;
namespace fs = std::filesystem;

namespace {

ModelConfig config_for(const HeadConfig& head) {
  ModelConfig config;
  config.class_names = head.class_names;
  config.num_classes = static_cast<std::int64_t>(head.class_names.size());
  config.classifier = head.classifier;
  return config;
}

/// A head file with `change` applied to what a good one has.
struct RawHead {
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<TensorEntry, std::string>> tensors;
};

void write_raw(const fs::path& path, const Head& head, const std::function<void(RawHead&)>& change) {
  const fs::path good = path.string() + ".good";
  save_head(good, head);
  const SafetensorsFile file(good);
  RawHead raw{file.metadata(), {}};
  for (const TensorEntry& entry : file.entries()) {
    std::string bytes(entry.bytes(), '\0');
    file.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
    raw.tensors.emplace_back(entry, bytes);
  }
  change(raw);
  std::vector<TensorEntry> entries;
  for (const auto& [entry, bytes] : raw.tensors) entries.push_back(entry);
  SafetensorsWriter writer(path, entries, raw.metadata);
  for (const auto& [entry, bytes] : raw.tensors) writer.write(std::as_bytes(std::span(bytes)));
  writer.commit();
}

}  // namespace

TEST_CASE(
    "a response generator shares lm_head until it has weights of its own, which start as lm_head's and are stored") {
  const ToyModel model(130);  // wider than one block of columns
  HeadConfig config = toy_config();
  config.text_hidden_size = 130;
  const Head shared = fresh_head(config, 1);
  CHECK(shared.response_generator().shared());
  const Head own = shared.with_own_response_generator(model);
  CHECK(!own.response_generator().shared());
  const at::Tensor hidden = formula_tensor(3, {2, 130}, 1, 0);
  const at::Tensor expected = model.lm_head(hidden);
  CHECK(at::equal(own.response_generator().forward(model, hidden), expected));
  CHECK(own.with_own_response_generator(model).tensors().size() == own.tensors().size());

  const TemporaryFolder folder;
  save_head(folder / "head.safetensors", own);
  const Head loaded = load_head(folder / "head.safetensors", model.info(), config_for(config));
  CHECK(at::equal(loaded.response_generator().forward(model, hidden), expected));
  ModelInfo info = model.info();
  info.vocab_size = 21;
  const auto error = error_of([&] { load_head(folder / "head.safetensors", info, config_for(config)); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
  CHECK(contains(*error, "20"));
  CHECK(contains(*error, "21"));
}

TEST_CASE("a stored head comes back bit by bit with its description") {
  const TemporaryFolder folder;
  const ToyModel model;
  HeadConfig config = toy_config("silu");
  config.class_names = {"keine", "\"eine\"", "几张"};
  const Head head = formula_head(config);
  save_head(folder / "head.safetensors", head);
  const Head loaded = load_head(folder / "head.safetensors", model.info(), config_for(config));
  REQUIRE(loaded.tensors().size() == head.tensors().size());
  for (std::size_t i = 0; i < head.tensors().size(); ++i) {
    CHECK(loaded.tensors()[i].name == head.tensors()[i].name);
    CHECK(loaded.tensors()[i].trainable == head.tensors()[i].trainable);
    CHECK(at::equal(loaded.tensors()[i].tensor, head.tensors()[i].tensor));
  }
  const HeadConfig stored = read_head_config(folder / "head.safetensors");
  CHECK(stored.class_names == config.class_names);
  CHECK(stored.classifier.dropout_rates == std::vector<double>{0.2, 0.1});
  CHECK(stored.classifier.activation == "silu");
  CHECK(SafetensorsFile(folder / "head.safetensors").metadata().at("created_by").starts_with("vlmzoo "));
}

TEST_CASE("a head file in half precision is widened") {
  const TemporaryFolder folder;
  const Head head = formula_head(toy_config());
  const at::Tensor half = tensor_of(head, "vision_projection.bias").to(at::kBFloat16);
  write_raw(folder / "head.safetensors", head, [&](RawHead& raw) {
    for (auto& [entry, bytes] : raw.tensors) {
      if (entry.name != "vision_projection.bias") continue;
      entry.dtype = DType::kBF16;
      bytes.assign(static_cast<const char*>(half.const_data_ptr()), half.nbytes());
    }
  });
  const Head loaded = load_head(folder / "head.safetensors", ToyModel().info(), config_for(head.config()));
  CHECK(at::equal(tensor_of(loaded, "vision_projection.bias"), half.to(at::kFloat)));
}

TEST_CASE("classes and classifier that a configuration leaves at their defaults are the file's") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  HeadConfig config = toy_config();
  config.class_names = {"a", "b", "c", "d"};
  save_head(path, formula_head(config));
  const Head loaded = load_head(path, ToyModel().info(), ModelConfig{});
  CHECK(loaded.config().class_names == config.class_names);
  CHECK(loaded.config().classifier.hidden_dims == config.classifier.hidden_dims);

  // Numbered classes are no names: the configuration's are taken.
  config.class_names = {"0", "1", "2", "3"};
  save_head(path, formula_head(config));
  ModelConfig named;
  named.class_names = {"a", "b", "c", "d"};
  CHECK(load_head(path, ToyModel().info(), named).config().class_names == named.class_names);
}

TEST_CASE("a head for something else is an error that names both sides") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  const HeadConfig head = toy_config();
  save_head(path, formula_head(head));
  ModelInfo info = ToyModel().info();
  ModelConfig config = config_for(head);
  std::vector<std::string> named;
  SUBCASE("another backbone") {
    info.model_type = "llama-vision";
    info.num_features = 7680;
    info.text_hidden_size = 4096;
    named = {"\"toy\"", "12", "10", "llama-vision", "7680", "4096"};
  }
  SUBCASE("another width of features") {
    info.num_features = 13;
    named = {"12", "13"};
  }
  SUBCASE("another width of text") {
    info.text_hidden_size = 11;
    named = {"width 10", "11"};
  }
  SUBCASE("other class names") {
    config.class_names = {"none", "one", "many"};
    named = {"several", "many"};
  }
  SUBCASE("the same names in another order") {
    config.class_names = {"one", "none", "several"};
    named = {"\"none\", \"one\"", "\"one\", \"none\""};
  }
  SUBCASE("another number of classes") {
    config.class_names = {};
    config.num_classes = 5;
    named = {"3 classes", "is 5"};
  }
  SUBCASE("another classifier") {
    config.classifier.hidden_dims = {8, 7};
    named = {"[8,6]", "[8,7]"};
  }
  SUBCASE("other dropout rates") {
    config.classifier.dropout_rates = {0.2, 0.3};
    named = {"0.1]", "0.3]"};
  }
  SUBCASE("another activation") {
    config.classifier.activation = "relu";
    named = {"gelu", "relu"};
  }
  SUBCASE("without batch norm") {
    config.classifier.batch_norm = false;
    named = {"true", "false"};
  }
  const auto error = error_of([&] { load_head(path, info, config); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
  CHECK(contains(*error, path.string()));
  for (const std::string& text : named) {
    CAPTURE(text);
    CAPTURE(error->what());
    CHECK(contains(*error, text));
  }
}

TEST_CASE("tensors that don't fit the description are counted and named") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  const Head head = formula_head(toy_config());
  std::vector<std::string> named;
  SUBCASE("missing") {
    write_raw(path, head, [](RawHead& raw) { raw.tensors.erase(raw.tensors.begin(), raw.tensors.begin() + 2); });
    named = {"2 missing", "vision_projection.weight [10, 12]", "vision_projection.bias [10]"};
  }
  SUBCASE("unexpected, very many and with hostile names") {
    write_raw(path, head, [](RawHead& raw) {
      for (int i = 0; i < 5000; ++i) {
        const std::string name = "extra\x1b[31m" + std::string(200, 'x') + std::to_string(i);
        raw.tensors.push_back({{name, DType::kF32, {1}}, std::string(4, '\0')});
      }
    });
    named = {"5000 unexpected", "extra\\u001b", "more"};
  }
  SUBCASE("misshaped") {
    write_raw(path, head, [](RawHead& raw) {
      for (auto& [entry, bytes] : raw.tensors) {
        if (entry.name == "classification_head.out.weight") entry.shape = {6, 3};
      }
    });
    named = {"1 of another shape", "classification_head.out.weight is [6, 3], expected [3, 6]"};
  }
  SUBCASE("of another type") {
    write_raw(path, head, [](RawHead& raw) {
      for (auto& [entry, bytes] : raw.tensors) {
        if (entry.name == "classification_head.out.bias") entry.dtype = DType::kI32;
      }
    });
    named = {"classification_head.out.bias", "I32", "F32"};
  }
  const auto error = error_of([&] { load_head(path, ToyModel().info(), config_for(head.config())); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kMismatch);
  CHECK(std::string(error->what()).size() < 4000);
  for (const std::string& text : named) {
    CAPTURE(text);
    CAPTURE(error->what());
    CHECK(contains(*error, text));
  }
}

TEST_CASE("a file that is no head file, or a broken one, is refused") {
  const TemporaryFolder folder;
  const fs::path path = folder / "head.safetensors";
  const Head head = formula_head(toy_config());
  ErrorCode code = ErrorCode::kCorrupt;
  const auto with = [&](const std::string& key, const std::string& value) {
    write_raw(path, head, [&](RawHead& raw) { raw.metadata[key] = value; });
  };
  SUBCASE("no metadata") {
    write_raw(path, head, [](RawHead& raw) { raw.metadata.clear(); });
  }
  SUBCASE("a key missing") {
    write_raw(path, head, [](RawHead& raw) { raw.metadata.erase("class_names"); });
  }
  SUBCASE("a newer format") {
    with("vlmzoo_head", "2");
    code = ErrorCode::kUnsupported;
  }
  SUBCASE("no number") { with("num_features", "12 "); }
  SUBCASE("a number beyond 64 bits") { with("num_features", "99999999999999999999"); }
  SUBCASE("a negative width") { with("text_hidden_size", "-10"); }
  SUBCASE("an absurd width") { with("text_hidden_size", "9223372036854775807"); }
  SUBCASE("classes that are no list") { with("class_names", "{\"a\": \"b\"}"); }
  SUBCASE("no classes") { with("class_names", "[]"); }
  SUBCASE("a class twice") { with("class_names", "[\"a\", \"a\", \"b\"]"); }
  SUBCASE("a class that is no text") { with("class_names", "[\"a\", 1, \"b\"]"); }
  SUBCASE("broken JSON") { with("classifier", "{"); }
  SUBCASE("a classifier that is no object") { with("classifier", "[]"); }
  SUBCASE("widths that are no integers") {
    with("classifier", R"({"hidden_dims": [1e300], "dropout_rates": [0.1], "batch_norm": true, "activation": "gelu"})");
  }
  SUBCASE("a dropout rate too few") {
    with("classifier", R"({"hidden_dims": [8, 6], "dropout_rates": [0.1], "batch_norm": true, "activation": "gelu"})");
  }
  SUBCASE("dropout of everything") {
    with("classifier", R"({"hidden_dims": [8], "dropout_rates": [1.0], "batch_norm": true, "activation": "gelu"})");
  }
  SUBCASE("an unknown activation") {
    with("classifier", R"({"hidden_dims": [8], "dropout_rates": [0.1], "batch_norm": true, "activation": "gelu_new"})");
  }
  const auto error = error_of([&] { load_head(path, ToyModel().info(), ModelConfig{}); });
  REQUIRE(error);
  CAPTURE(error->what());
  CHECK(error->code() == code);
  CHECK(contains(*error, path.string()));
}

TEST_CASE("make_head reads the configured file and otherwise starts from the seed, and says which") {
  const TemporaryFolder folder;
  const ToyModel model;
  ModelConfig config;
  config.device = "cpu";
  config.seed = 11;
  config.num_classes = 4;
  bool fresh = false;
  const Head first = make_head(model.info(), config, &fresh);
  CHECK(fresh);
  CHECK(first.config().class_names == std::vector<std::string>{"0", "1", "2", "3"});
  CHECK(first.config().classifier.hidden_dims == std::vector<std::int64_t>{768, 256});
  save_head(folder / "head.safetensors", first);
  config.head = (folder / "head.safetensors").string();
  const Head second = make_head(model.info(), config, &fresh);
  CHECK(!fresh);
  const at::Tensor pooled = pool_image_features(formula_features());
  CHECK(at::equal(first.forward_pooled(pooled).logits, second.forward_pooled(pooled).logits));
  config.head = (folder / "absent.safetensors").string();
  const auto error = error_of([&] { make_head(model.info(), config); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kNotFound);
}
