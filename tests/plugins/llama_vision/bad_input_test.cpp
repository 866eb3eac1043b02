// What the Llama-3.2-Vision adapter says to folders, configurations and inputs that don't fit.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <c10/core/GradMode.h>

#include <functional>

#include "support.hpp"
#include "tiny_models.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

const fs::path kData = fs::path(VLMZOO_TEST_DATA) / "data";

const Image& small_picture() {
  static const Image image = {20, 20, std::vector<std::uint8_t>(1200, 100)};
  return image;
}

/// The message of the Error with `code` that creating or running throws.
std::string message_of(ErrorCode code, const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("no error");
  return "";
}

std::unique_ptr<Model> create(const fs::path& folder, ModelConfig config = {}, bool pretrained = false) {
  config.pretrained_path = folder.string();
  config.pretrained = pretrained;
  config.model_type = "llama-vision";
  return open_model(config, {.plan_only = !pretrained});
}

/// A copy of a tiny folder whose `file` was changed.
class Changed {
 public:
  Changed(const std::string& name, const std::string& file, const std::function<void(Json&)>& change) {
    fs::copy(kData / name, folder_ / "model");
    Json json = read_json(kData / name / file);
    change(json);
    write_file(folder_ / "model" / file, json.dump());
  }
  fs::path path() const { return folder_ / "model"; }

 private:
  TemporaryFolder folder_;
};

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a folder of another model is named as what it is") {
  const std::string message = message_of(ErrorCode::kMismatch, [] { create(kData / "internvl" / "release"); });
  CHECK(has(message, "InternVLChatModel"));
  CHECK(has(message, "model.model_type"));

  const Changed text("llama_vision/base", "config.json", [](Json& json) {
    Json inner = json["text_config"];
    inner["architectures"] = {"LlamaForCausalLM"};
    inner["model_type"] = "llama";
    json = inner;
  });
  const std::string text_only = message_of(ErrorCode::kMismatch, [&] { create(text.path()); });
  CHECK(has(text_only, "text-only model (LlamaForCausalLM, model_type 'llama')"));
}

TEST_CASE("keys of config.json that can't be, or can't be had, are errors that name them") {
  struct Case {
    std::function<void(Json&)> change;
    ErrorCode code;
    std::string part;
  };
  const std::vector<Case> cases = {
      {[](Json& c) { c.erase("text_config"); }, ErrorCode::kConfig, "text_config is missing"},
      {[](Json& c) { c["vision_config"]["hidden_size"] = 1LL << 40; }, ErrorCode::kConfig, "vision_config.hidden_size"},
      {[](Json& c) { c["vision_config"]["hidden_size"] = "64"; }, ErrorCode::kConfig, "the text '64'"},
      {[](Json& c) { c["vision_config"]["attention_heads"] = 5; }, ErrorCode::kConfig, "does not divide hidden_size"},
      {[](Json& c) { c["vision_config"]["image_size"] = 57; }, ErrorCode::kConfig, "does not divide image_size 57"},
      {[](Json& c) { c["vision_config"]["max_num_tiles"] = 100000; }, ErrorCode::kConfig, "max_num_tiles"},
      {[](Json& c) { c["vision_config"]["num_channels"] = 4; }, ErrorCode::kUnsupported, "num_channels is 4"},
      {[](Json& c) { c["vision_config"]["vision_output_dim"] = 320; }, ErrorCode::kConfig, "make 256"},
      {[](Json& c) {
         c["vision_config"]["intermediate_layers_indices"] = {1, 5};
       },
       ErrorCode::kConfig, "from 0 to 4"},
      {[](Json& c) {
         c["vision_config"]["intermediate_layers_indices"] = {2, 1};
       },
       ErrorCode::kConfig, "ascending"},
      {[](Json& c) { c["vision_config"]["supported_aspect_ratios"].erase(5); }, ErrorCode::kUnsupported,
       "supported_aspect_ratios"},
      {[](Json& c) {
         c["text_config"]["cross_attention_layers"] = {1, 6};
       },
       ErrorCode::kConfig, "cross_attention_layers"},
      {[](Json& c) { c["text_config"]["cross_attention_layers"] = {-1}; }, ErrorCode::kConfig,
       "cross_attention_layers"},
      {[](Json& c) { c["text_config"]["num_key_value_heads"] = 4; }, ErrorCode::kConfig, "num_key_value_heads"},
      {[](Json& c) { c["text_config"]["tie_word_embeddings"] = true; }, ErrorCode::kUnsupported, "tie_word_embeddings"},
      {[](Json& c) { c["text_config"]["hidden_act"] = "gelu"; }, ErrorCode::kUnsupported, "hidden_act"},
      {[](Json& c) {
         c["quantization_config"] = {{"load_in_4bit", true}};
       },
       ErrorCode::kUnsupported, "use_8bit"},
      {[](Json& c) { c["image_token_index"] = 5; }, ErrorCode::kMismatch, "image_token_index 5"},
      {[](Json& c) { c["text_config"]["vocab_size"] = 600; }, ErrorCode::kMismatch, "608 rows"}};
  for (const Case& one : cases) {
    CAPTURE(one.part);
    const Changed changed("llama_vision/instruct", "config.json", one.change);
    CHECK(has(message_of(one.code, [&] { create(changed.path()); }), one.part));
  }
}

TEST_CASE("preprocessor_config.json has to be of the same model") {
  const auto message = [](ErrorCode code, const std::function<void(Json&)>& change) {
    const Changed changed("llama_vision/instruct", "preprocessor_config.json", change);
    return message_of(code, [&] { create(changed.path()); });
  };
  CHECK(has(message(ErrorCode::kConfig, [](Json& p) { p["size"]["height"] = 560; }), "size.height is 560"));
  CHECK(has(message(ErrorCode::kConfig, [](Json& p) { p["max_image_tiles"] = 2; }), "max_image_tiles is 2"));
  CHECK(has(message(ErrorCode::kUnsupported, [](Json& p) { p["resample"] = 3; }), "resample is 3"));
  CHECK(has(message(ErrorCode::kConfig, [](Json& p) { p["image_std"] = {0.2, 0, 0.2}; }), "image_std"));
}

TEST_CASE("what the configuration asks of a checkpoint that can't do it is an error") {
  ModelConfig config;
  SUBCASE("more tiles than it has") {
    config.max_tiles = 5;
    CHECK(has(message_of(ErrorCode::kConfig, [&] { create(kData / "llama_vision" / "instruct", config); }),
              "embeddings for 4 tiles"));
  }
  SUBCASE("a system prompt of a base model") {
    config.system_prompt = "Be brief.";
    CHECK(has(message_of(ErrorCode::kUnsupported, [&] { create(kData / "llama_vision" / "base", config); }),
              "base model"));
  }
  SUBCASE("the clip pipeline with other sizes") {
    config.image_pipeline = "clip";
    CHECK(has(message_of(ErrorCode::kConfig, [&] { create(kData / "llama_vision" / "base", config); }), "42×42"));
  }
}

TEST_CASE("a tokenizer without the image token, marks and pictures that differ, prompts that are too long") {
  const TemporaryFolder folder;
  fs::copy(kData / "llama_vision" / "base", folder / "model");
  fs::remove(folder / "model" / "tokenizer.json");
  fs::copy_file(kData / "tokenizer" / "tokenizer.json", folder / "model" / "tokenizer.json");
  CHECK(has(message_of(ErrorCode::kMismatch, [&] { create(folder / "model"); }),
            "has no token <|begin_of_text|>, <|image|>"));

  const auto model = create(kData / "llama_vision" / "two_tiles");
  const auto prepare = [&](const Request& request) { model->preprocess({&request, 1}); };
  CHECK(has(message_of(ErrorCode::kMismatch,
                       [&] {
                         prepare({"<image><image>", {small_picture()}});
                       }),
            "2 <image> marks, and there is 1 picture"));
  CHECK(has(message_of(ErrorCode::kMismatch, [&] { prepare({"<image>", {}}); }), "there are 0 pictures"));
  CHECK(has(message_of(ErrorCode::kUsage, [&] { prepare({std::string(9000, '!') + "?", {}}); }), "context is 2048"));
}

TEST_CASE("weights of another size than config.json says are listed") {
  const fs::path folder = checkpoint("llama_vision/instruct", 0);
  Json json = read_json(folder / "config.json");
  json["vision_config"]["intermediate_size"] = 64;
  json["text_config"]["num_hidden_layers"] = 7;
  write_file(folder / "config.json", json.dump());
  const std::string message = message_of(ErrorCode::kMismatch, [&] { create(folder, {}, /*pretrained=*/true); });
  CHECK(has(message, "vision_model.transformer.layers.0.mlp.fc1.weight: expected [64, 64], got [128, 64]"));
  CHECK(has(message, "language_model.model.layers.6.input_layernorm.weight"));
  CHECK(message.size() < 4000);
}

TEST_CASE("inputs that don't belong together are errors") {
  const c10::AutoGradMode no_grad(false);
  const auto model = create(checkpoint("llama_vision/base", 0), {}, /*pretrained=*/true);
  const Request request{"<image>\nWhat?", {small_picture()}};
  const ModelInputs inputs = model->preprocess({&request, 1});
  const ImageFeatures features = model->encode_images(inputs);
  const auto cache = model->new_cache(1, 64);
  CHECK(has(message_of(ErrorCode::kMismatch, [&] { model->forward(inputs, nullptr, *cache, 1); }),
            "places for 1 pictures, and 0 are given"));
  ModelInputs text;
  text.input_ids = inputs.input_ids.narrow(1, 0, 1);
  CHECK(code_of([&] { model->forward(text, &features, *cache, 1); }) == ErrorCode::kMismatch);

  ModelInputs beyond = inputs;
  beyond.extra["aspect_ratio_ids"] = at::full_like(inputs.extra.at("aspect_ratio_ids"), 9);
  CHECK(has(message_of(ErrorCode::kMismatch, [&] { model->encode_images(beyond); }), "knows 1 to 8"));
  beyond.extra.erase("aspect_ratio_ids");
  CHECK(code_of([&] { model->encode_images(beyond); }) == ErrorCode::kMismatch);

  KvCache plain({1, 1, 64, 1, 16}, at::kFloat, at::kCPU);
  CHECK(code_of([&] { model->forward(inputs, &features, plain, 1); }) == ErrorCode::kMismatch);
}

TEST_CASE("a model that was loaded for vision alone says so to whoever wants text of it, as every adapter here does") {
  const c10::AutoGradMode no_grad(false);
  for (const char* name : {"internvl/release", "llama_vision/base"}) {
    CAPTURE(name);
    ModelConfig config;
    config.pretrained_path = checkpoint(name, 0).string();
    const auto whole = open_model(config);
    config.multimodal = false;
    const auto vision = open_model(config);
    const Request request{"What?", {}};
    const ModelInputs inputs = whole->preprocess({&request, 1});
    const auto cache = whole->new_cache(1, inputs.input_ids.size(1));
    const at::Tensor hidden = whole->forward(inputs, nullptr, *cache, 1).last_hidden_state;
    const auto says_so = [](const std::function<void()>& function) {
      CHECK(has(message_of(ErrorCode::kUnsupported, function), "loaded without its language part"));
    };
    says_so([&] { vision->new_cache(1, 8); });
    says_so([&] { vision->forward(inputs, nullptr, *cache, 1); });
    says_so([&] { vision->lm_head(hidden); });
  }
}
