// Tokenizer::open on folders as released without a tokenizer.json: vocab.json, merges.txt and the added tokens.
#include <doctest/doctest.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "../support.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/tokenizer.hpp"

namespace {

using vlmzoo::Error;
using vlmzoo::ErrorCode;
using vlmzoo::Json;
using vlmzoo::TokenId;
using vlmzoo::Tokenizer;
using vlmzoo::write_file;
using vlmzoo::test::TemporaryFolder;
using Ids = std::vector<TokenId>;

const std::filesystem::path kData = std::filesystem::path(VLMZOO_TEST_DATA) / "data/tokenizer";

const Tokenizer& whole() {
  static const Tokenizer tokenizer(kData / "tokenizer.json");
  return tokenizer;
}

Json config() { return vlmzoo::read_json(kData / "tokenizer_config.json"); }

/// vocab.json, merges.txt and tokenizer_config.json that say what the small tokenizer.json does.
void write_released(const TemporaryFolder& folder, const std::string& line_end = "\n") {
  const Json json = vlmzoo::read_json(kData / "tokenizer.json");
  std::string merges = "#version: 0.2" + line_end;
  for (const Json& merge : json["model"]["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + line_end;
  }
  write_file(folder / "vocab.json", json["model"]["vocab"].dump());
  write_file(folder / "merges.txt", merges + line_end);
  write_file(folder / "tokenizer_config.json", config().dump());
}

/// The same with the ids of added tokens in added_tokens.json alone.
void list_added_tokens(const TemporaryFolder& folder, const Json& special_tokens_map) {
  Json json = config(), ids = Json::object();
  for (const auto& [id, token] : json["added_tokens_decoder"].items()) {
    ids[token["content"].get<std::string>()] = std::stoi(id);
  }
  for (const char* key : {"added_tokens_decoder", "eos_token", "pad_token"}) json.erase(key);
  write_file(folder / "tokenizer_config.json", json.dump());
  write_file(folder / "added_tokens.json", ids.dump());
  if (!special_tokens_map.is_null()) write_file(folder / "special_tokens_map.json", special_tokens_map.dump());
}

void check_same(const Tokenizer& tokenizer) {
  CHECK(tokenizer.size() == whole().size());
  for (const char* text :
       {"", "The cat isn't on the mat,  it's THERE'S  12345 times!\r\n\n  done ",
        "cafe\u0301 \u00fc\u4f60\u597d \U0001F600",
        "<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\nWhat is <ref>the cat</ref>?<|im_end|>\n",
        " <box> [1, 2] </box><|endoftext|>\t\t<quad>x</quad> "}) {
    CAPTURE(std::string(text));
    const Ids ids = whole().encode(text);
    CHECK(tokenizer.encode(text) == ids);
    CHECK(tokenizer.decode(ids) == whole().decode(ids));
    CHECK(tokenizer.decode(ids, /*skip_special=*/false) == whole().decode(ids, /*skip_special=*/false));
  }
}

void check_refused(const TemporaryFolder& folder, ErrorCode code, const std::vector<std::string>& words) {
  try {
    Tokenizer::open(folder.path());
    FAIL_CHECK("accepted");
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == code);
    CHECK(message.find(folder.path().string()) != std::string::npos);
    for (const std::string& word : words) CHECK(message.find(word) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("vocab.json and merges.txt of a folder give the ids of its tokenizer.json") {
  for (const char* type : {"Qwen2Tokenizer", "Qwen2TokenizerFast"}) {
    for (const char* line_end : {"\n", "\r\n"}) {
      const TemporaryFolder folder;
      write_released(folder, line_end);
      Json json = config();
      json["tokenizer_class"] = type;
      write_file(folder / "tokenizer_config.json", json.dump());
      const std::optional<Tokenizer> tokenizer = Tokenizer::open(folder.path());
      REQUIRE(tokenizer.has_value());
      check_same(*tokenizer);
    }
  }
}

TEST_CASE("a tokenizer.json in the folder goes before the other files, and without any there is no tokenizer") {
  const TemporaryFolder folder;
  write_file(folder / "tokenizer_config.json", config().dump());
  CHECK_FALSE(Tokenizer::open(folder.path()).has_value());
  CHECK_FALSE(Tokenizer::open(folder / "no_such_folder").has_value());
  write_file(folder / "vocab.json", "{");
  write_file(folder / "merges.txt", "\n");
  write_file(folder / "tokenizer.json", vlmzoo::read_file(kData / "tokenizer.json"));
  const std::optional<Tokenizer> tokenizer = Tokenizer::open(folder.path());
  REQUIRE(tokenizer.has_value());
  check_same(*tokenizer);
}

TEST_CASE("what added_tokens_decoder says of a token is kept, and tokens are taken in the order of their ids") {
  const TemporaryFolder folder;
  write_released(folder);
  Json json = config();
  Json& tokens = json["added_tokens_decoder"];
  for (int id = 612; id <= 1000; ++id) {  // as text, "1000" sorts before "600"
    tokens[std::to_string(id)] = tokens["611"];
    tokens[std::to_string(id)]["content"] = "<extra_" + std::to_string(id) + ">";
  }
  tokens["1000"]["lstrip"] = tokens["1000"]["rstrip"] = true;
  tokens["1000"]["special"] = false;
  write_file(folder / "tokenizer_config.json", json.dump());
  const std::optional<Tokenizer> tokenizer = Tokenizer::open(folder.path());
  REQUIRE(tokenizer.has_value());
  CHECK(tokenizer->size() == 1001);
  CHECK(tokenizer->encode("<img> <extra_1000> <extra_999>") == Ids{603, 1000, 999});
  CHECK(tokenizer->is_special(999));
  CHECK_FALSE(tokenizer->is_special(1000));
}

TEST_CASE("without added_tokens_decoder the tokens of added_tokens.json are taken") {
  SUBCASE("all of them special when no file says which are") {
    const TemporaryFolder folder;
    write_released(folder);
    list_added_tokens(folder, Json());
    const std::optional<Tokenizer> tokenizer = Tokenizer::open(folder.path());
    REQUIRE(tokenizer.has_value());
    check_same(*tokenizer);
  }
  SUBCASE("those special that special_tokens_map.json names") {
    const TemporaryFolder folder;
    write_released(folder);
    list_added_tokens(folder, {{"eos_token", {{"content", "<|im_end|>"}, {"lstrip", false}}},
                               {"pad_token", "<|endoftext|>"},
                               {"additional_special_tokens", {"<img>", "</img>"}}});
    const std::optional<Tokenizer> tokenizer = Tokenizer::open(folder.path());
    REQUIRE(tokenizer.has_value());
    for (const TokenId id : {600, 602, 603, 604}) CHECK(tokenizer->is_special(id));
    for (const TokenId id : {601, 605, 611}) CHECK_FALSE(tokenizer->is_special(id));
    CHECK(tokenizer->encode("<img><box></img>") == Ids{603, 610, 604});
  }
}

TEST_CASE("a folder that lacks a part of its tokenizer is refused by the name of that part") {
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json"}) {
    const TemporaryFolder folder;
    write_released(folder);
    std::filesystem::remove(folder / name);
    check_refused(folder, ErrorCode::kNotFound, {std::string("has no ") + name});
  }
}

TEST_CASE("vocab.json and merges.txt of another class, or with another way of cutting text, need a tokenizer.json") {
  const TemporaryFolder folder;
  write_released(folder);
  const auto refused = [&](const Json& patch, const std::vector<std::string>& words) {
    Json json = config();
    json.merge_patch(patch);
    write_file(folder / "tokenizer_config.json", json.dump());
    check_refused(folder, ErrorCode::kUnsupported, words);
  };
  refused({{"tokenizer_class", "GPT2Tokenizer"}}, {"GPT2Tokenizer", "tokenizer.json", "Qwen2Tokenizer"});
  refused({{"tokenizer_class", nullptr}}, {"tokenizer_class", "tokenizer.json"});
  refused({{"add_prefix_space", true}}, {"add_prefix_space"});
  refused({{"split_special_tokens", true}}, {"split_special_tokens"});
}

TEST_CASE("broken parts of a tokenizer folder are a corrupt file") {
  const TemporaryFolder folder;
  const auto corrupt = [&](const char* name, const std::string& content, const std::string& word) {
    CAPTURE(content);
    write_released(folder);
    write_file(folder / name, content);
    check_refused(folder, ErrorCode::kCorrupt, {word});
  };
  for (const char* content : {"", "{", "[]", "{\"a\": 0, \"a\": 1}", "{\"a\": \xff}"}) {
    corrupt("vocab.json", content, "vocab.json");
    corrupt("tokenizer_config.json", content, "tokenizer_config.json");
  }
  corrupt("vocab.json", R"({"a": -1})", "vocab");
  corrupt("vocab.json", R"({"a": 99999999999})", "vocab");
  corrupt("merges.txt", "t h\nt h e\n", "merges[1]");
  corrupt("merges.txt", "th\n", "merges[0]");
  corrupt("merges.txt", "t \xff\n", "merges[0]");
  corrupt("tokenizer_config.json", R"({"tokenizer_class": 7})", "tokenizer_class");
  const auto corrupt_tokens = [&](const Json& tokens, const std::string& word) {
    Json json = config();
    json["added_tokens_decoder"] = tokens;
    corrupt("tokenizer_config.json", json.dump(), word);
  };
  const Json token = config()["added_tokens_decoder"]["600"];
  corrupt_tokens(Json::array({token}), "added_tokens_decoder");
  corrupt_tokens({{"600", "<a>"}}, "added_tokens_decoder.600");
  for (const char* key : {"", "x", "-1", "600x", "99999999999999999999"}) corrupt_tokens({{key, token}}, "as keys");
  corrupt_tokens({{"4294967295", token}}, "added_tokens[0].id");
  corrupt_tokens({{"601", token}}, "added_tokens[0].id");
  corrupt_tokens({{"600", token}, {"601", token}}, "twice");
  list_added_tokens(folder, Json());
  write_file(folder / "added_tokens.json", R"({"<a>": "600"})");
  check_refused(folder, ErrorCode::kCorrupt, {"added_tokens[0].id"});
}
