// Tiles and prompts of the Llama-3.2-Vision adapter.
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "support.hpp"
#include "tiny_models.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/tokenizer.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

const fs::path kTests = VLMZOO_TEST_DATA, kData = kTests / "data" / "llama_vision";

Image white(std::int64_t width, std::int64_t height) {
  return {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 255)};
}

/// A model that only preprocesses: its folder needs no weights.
std::unique_ptr<Model> plan(const fs::path& folder, ModelConfig config = {}) {
  config.pretrained_path = folder.string();
  config.pretrained = false;
  return open_model(config, {.plan_only = true});
}

ModelInputs prepare(const Model& model, const Request& request) { return model.preprocess({&request, 1}); }

std::vector<TokenId> ids_of(const Model& model, const Request& request) {
  const at::Tensor ids = prepare(model, request).input_ids[0];
  return {ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + ids.numel()};
}

/// "[image]" and the like are control tokens, everything else is tokenized piece by piece.
std::vector<TokenId> ids_of(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  std::vector<TokenId> result;
  for (const std::string& piece : pieces) {
    if (const auto special = tokenizer.id_of(piece); special && piece.starts_with("<|")) {
      result.push_back(*special);
    } else {
      const std::vector<TokenId> ids = tokenizer.encode(piece);
      result.insert(result.end(), ids.begin(), ids.end());
    }
  }
  return result;
}

}  // namespace

TEST_CASE("pictures of every size go onto the reference's canvas, at its size, the rest black, unused tiles zero") {
  const Json goldens = read_json(kTests / "goldens" / "llama_vision" / "canvas.json");
  std::size_t compared = 0;
  for (const auto& [name, rows] : goldens.items()) {
    const auto model = plan(kData / name);
    const Json processor = read_json(kData / name / "preprocessor_config.json");
    const auto pixel = [&](double value) {
      return (value - processor.at("image_mean")[0].get<double>()) / processor.at("image_std")[0].get<double>();
    };
    for (const Json& row : rows) {
      const auto at = [&](std::size_t i) { return row[i].get<std::int64_t>(); };
      CAPTURE(name);
      CAPTURE(row.dump());
      const Request request{"", {white(at(0), at(1))}};
      const ModelInputs inputs = model->preprocess({&request, 1}, /*vision_only=*/true);
      CHECK(inputs.extra.at("aspect_ratio_ids").item<std::int64_t>() == at(2));
      const std::int64_t used = inputs.extra.at("aspect_ratio_mask").sum().item<std::int64_t>();
      const at::Tensor tiles = inputs.pixel_values[0][0].select(1, 0);  // red, [M, S, S]
      const auto count = [&](double value) { return (tiles - value).abs().lt(1e-6).sum().item<std::int64_t>(); };
      CHECK(count(pixel(1)) == at(3) * at(4));
      CHECK(count(pixel(0)) == used * tiles.size(1) * tiles.size(2) - at(3) * at(4));
      CHECK(count(0) == tiles.numel() - used * tiles.size(1) * tiles.size(2));
      ++compared;
    }
  }
  CHECK(compared == 573);
}

TEST_CASE("max_tiles limits the canvas; shapes and ids stay those of the checkpoint") {
  ModelConfig config;
  config.max_tiles = 2;
  const auto model = plan(kData / "instruct", config);
  CHECK(model->info().max_tiles == 2);
  const auto id = [&](std::int64_t width, std::int64_t height) {
    const ModelInputs inputs = prepare(*model, {"", {white(width, height)}});
    CHECK(inputs.pixel_values.sizes() == at::IntArrayRef({1, 1, 4, 3, 56, 56}));
    CHECK(inputs.tiles_per_image == std::vector<std::int64_t>{4});
    return inputs.extra.at("aspect_ratio_ids").item<std::int64_t>();
  };
  CHECK(id(50, 50) == 1);
  CHECK(id(200, 50) == 2);
  CHECK(id(50, 200) == 5);  // 3 in a checkpoint of two tiles
  CHECK(id(500, 500) == 1);
}

TEST_CASE("a picture so thin that it would vanish is an error") {
  const auto model = plan(kData / "instruct");
  const Request request{"", {white(6000, 1)}};
  CHECK(code_of([&] { model->preprocess({&request, 1}, /*vision_only=*/true); }) == ErrorCode::kUnsupported);
}

TEST_CASE("an Instruct prompt has turns, a base prompt has none; a newline after a mark is dropped") {
  const std::vector<std::string> user = {"<|begin_of_text|>", "<|start_header_id|>", "user", "<|end_header_id|>",
                                         "\n\n"};
  const std::vector<std::string> end = {"<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"};
  const auto chat = [&](std::vector<std::string> content) {
    content.insert(content.begin(), user.begin(), user.end());
    content.insert(content.end(), end.begin(), end.end());
    return content;
  };
  const auto instruct = plan(kData / "instruct"), base = plan(kData / "base");
  const Tokenizer& tokenizer = *instruct->tokenizer();
  const Image image = white(30, 30);
  CHECK(ids_of(*instruct, {"<image>\nHi", {image}}) == ids_of(tokenizer, chat({"<|image|>", "Hi"})));
  CHECK(ids_of(*instruct, {"\n\nHi", {image, image}}) == ids_of(tokenizer, chat({"<|image|>", "<|image|>", "\n\nHi"})));
  CHECK(ids_of(*instruct, {"a <image>\n<image> b", {image, image}}) ==
        ids_of(tokenizer, chat({"a ", "<|image|>", "<|image|>", " b"})));
  CHECK(ids_of(*instruct, {"Hi", {}}) == ids_of(tokenizer, chat({"Hi"})));
  CHECK(ids_of(*base, {"<image>\nHi", {image}}) == ids_of(tokenizer, {"<|begin_of_text|>", "<|image|>", "Hi"}));
  CHECK(ids_of(*base, {"Hi", {}}) == ids_of(tokenizer, {"<|begin_of_text|>", "Hi"}));

  ModelConfig config;
  config.system_prompt = "Be brief.";
  CHECK(ids_of(*plan(kData / "instruct", config), {"Hi", {}}) ==
        ids_of(tokenizer, {"<|begin_of_text|>", "<|start_header_id|>", "system", "<|end_header_id|>", "\n\n",
                           "Be brief.", "<|eot_id|>", "<|start_header_id|>", "user", "<|end_header_id|>", "\n\n", "Hi",
                           "<|eot_id|>", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"}));
}

TEST_CASE("each text row sees the latest picture and its direct neighbours") {
  const auto model = plan(kData / "base");
  const ModelInputs inputs =
      prepare(*model, {"a<image><image>b<image>", {white(30, 30), white(80, 30), white(30, 30)}});
  const at::Tensor pictures = inputs.extra.at("cross_attention_mask")[0].select(2, 0);  // first tiles, [L, pictures]
  std::string seen;
  for (std::int64_t row = 0; row < pictures.size(0); ++row) {
    std::string one;
    for (std::int64_t i = 0; i < 3; ++i) {
      if (pictures[row][i].item<std::int64_t>() == 1) one += std::to_string(i);
    }
    seen += one + "/";
  }
  CHECK(seen == "//0/01/01/2/");  // <|begin_of_text|> a 0 1 b 2
  CHECK(inputs.extra.at("cross_attention_mask")[0][4].flatten().sum().item<std::int64_t>() == 1 + 2);  // real tiles
}

TEST_CASE("the chat template may lie in a file of its own") {
  const TemporaryFolder folder;
  fs::copy(kData / "base", folder / "model");
  const std::size_t base = ids_of(*plan(folder / "model"), {"Hi", {}}).size();
  SUBCASE("jinja") { write_file(folder / "model" / "chat_template.jinja", "{{ messages }}"); }
  SUBCASE("json") { write_file(folder / "model" / "chat_template.json", R"({"chat_template": "x"})"); }
  CHECK(ids_of(*plan(folder / "model"), {"Hi", {}}).size() > base);
}

TEST_CASE("every id of generation_config.json ends an answer; without the file, the tokenizer's") {
  CHECK(plan(kData / "instruct")->info().stop_ids == std::vector<TokenId>{601, 608, 609});
  CHECK(plan(kData / "base")->info().stop_ids == std::vector<TokenId>{601});
  CHECK(plan(kData / "instruct")->info().answer_end == 609);  // <|eot_id|>
  CHECK(plan(kData / "base")->info().answer_end == 601);      // <|end_of_text|>
  const TemporaryFolder folder;
  fs::copy(kData / "base", folder / "model");
  fs::remove(folder / "model" / "generation_config.json");
  CHECK(plan(folder / "model")->info().stop_ids == std::vector<TokenId>{601, 608, 609});
}

TEST_CASE("the real tokenizer gives an Instruct prompt the release's ids") {
  const char* file = std::getenv("VLMZOO_TEST_LLAMA_TOKENIZER");
  if (file == nullptr || !fs::exists(file)) {
    MESSAGE("skipped: no real Llama tokenizer (tests/reference/fetch_tokenizers.sh)");
    return;
  }
  const TemporaryFolder folder;
  fs::copy(kData / "instruct", folder / "model");
  fs::remove(folder / "model" / "tokenizer.json");
  fs::create_symlink(file, folder / "model" / "tokenizer.json");
  Json config = read_json(kData / "instruct" / "config.json");
  config["image_token_index"] = 128256;
  config["text_config"]["vocab_size"] = 128256;
  write_file(folder / "model" / "config.json", config.dump());
  CHECK(ids_of(*plan(folder / "model"), {"<image>\nHow many receipts are there?", {white(30, 30)}}) ==
        std::vector<TokenId>{128000, 128006, 882, 128007, 271, 128256, 4438, 1690, 57580, 527, 1070, 30, 128009, 128006,
                             78191, 128007, 271});
}
