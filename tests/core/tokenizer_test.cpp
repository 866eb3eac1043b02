#include "vlmzoo/tokenizer.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../support.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"

namespace {

using vlmzoo::Error;
using vlmzoo::ErrorCode;
using vlmzoo::Json;
using vlmzoo::PromptPiece;
using vlmzoo::TextStream;
using vlmzoo::TokenId;
using vlmzoo::Tokenizer;
using Ids = std::vector<TokenId>;

std::filesystem::path data(const std::string& name) { return std::filesystem::path(VLMZOO_TEST_DATA) / name; }

const Tokenizer& small() {
  static const Tokenizer tokenizer(data("data/tokenizer/tokenizer.json"));
  return tokenizer;
}

Json small_json() { return vlmzoo::read_json(data("data/tokenizer/tokenizer.json")); }

Tokenizer from_text(const std::string& content) {
  const vlmzoo::test::TemporaryFolder folder;
  vlmzoo::write_file(folder / "tokenizer.json", content);
  return Tokenizer(folder / "tokenizer.json");
}

Tokenizer patched(const Json& patch) {
  Json json = small_json();
  json.merge_patch(patch);
  return from_text(json.dump());
}

Ids encode(const Tokenizer& tokenizer, const std::vector<PromptPiece>& pieces,
           const std::vector<std::string>& usable = {}) {
  return tokenizer.encode(pieces, usable);
}

std::string sha256_of(const std::string& text) { return vlmzoo::sha256(std::as_bytes(std::span(text))); }

/// The lines of make_tokenizer_goldens.py, by the same formula.
std::vector<std::string> golden_lines(const Json& recipe) {
  const auto fragments = recipe["fragments"].get<std::vector<std::string>>();
  std::uint64_t state = 20240607;
  const auto next = [&state] { return (state = state * 6364136223846793005U + 1442695040888963407U) >> 33; };
  std::vector<std::string> lines(recipe["lines"].get<std::size_t>());
  for (std::string& line : lines) {
    for (std::uint64_t left = 1 + next() % 14; left > 0; --left) line += fragments[next() % fragments.size()];
  }
  return lines;
}

void check_against_goldens(const Tokenizer& tokenizer, const std::string& name) {
  const Json recipe = vlmzoo::read_json(data("goldens/tokenizer_lines.json"));
  const Json golden = vlmzoo::read_json(data("goldens/" + name));
  const std::vector<std::string> lines = golden_lines(recipe);
  const auto block = recipe["block"].get<std::size_t>();
  REQUIRE(lines.size() >= 2000);
  REQUIRE(golden["counts"].size() == lines.size());
  CHECK(tokenizer.size() == golden["size"].get<std::int64_t>());
  for (std::size_t begin = 0; begin < lines.size(); begin += block) {
    CAPTURE(begin);
    std::string spelled, decoded, streamed;
    for (std::size_t i = begin; i < begin + block; ++i) {
      const Ids ids = tokenizer.encode(lines[i]);
      INFO("line " << i << ": " << Json(lines[i]).dump(-1, ' ', /*ensure_ascii=*/true));
      CHECK(ids.size() == golden["counts"][i].get<std::size_t>());
      for (const TokenId id : ids) spelled += std::to_string(id) + ' ';
      spelled += '\n';
      decoded += tokenizer.decode(ids) + '\n';
      TextStream stream(tokenizer);
      for (const TokenId id : ids) streamed += stream.push(id);
      streamed += stream.finish() + '\n';
    }
    CHECK(sha256_of(spelled) == golden["ids_sha256"][begin / block].get<std::string>());
    CHECK(sha256_of(decoded) == golden["decoded_sha256"][begin / block].get<std::string>());
    CHECK(streamed == decoded);
  }
}

void check_real_tokenizer(const char* variable, const std::string& name) {
  const char* path = std::getenv(variable);
  if (path == nullptr || !std::filesystem::exists(path)) {
    MESSAGE("skipped: ", std::string(variable), " names no file; tests/reference/fetch_tokenizers.sh gets it");
    return;
  }
  check_against_goldens(Tokenizer(path), name);
}

}  // namespace

TEST_CASE("the small tokenizer gives the reference's ids and text for 2500 mixed lines") {
  check_against_goldens(small(), "tokenizer_small.json");
}

TEST_CASE("Qwen's tokenizer gives the reference's ids and text for 2500 mixed lines") {
  check_real_tokenizer("VLMZOO_TEST_QWEN_TOKENIZER", "tokenizer_qwen.json");
}

TEST_CASE("Llama's tokenizer gives the reference's ids and text for 2500 mixed lines") {
  check_real_tokenizer("VLMZOO_TEST_LLAMA_TOKENIZER", "tokenizer_llama.json");
}

TEST_CASE("what a tokenizer.json may say beside the common case gives the reference's ids and text") {
  const Json goldens = vlmzoo::read_json(data("goldens/tokenizer_variants.json"));
  REQUIRE(goldens["variants"].size() > 10);
  for (const Json& variant : goldens["variants"]) {
    CAPTURE(variant["name"].get<std::string>());
    const Tokenizer tokenizer = patched(variant["patch"]);
    for (std::size_t i = 0; i < goldens["texts"].size(); ++i) {
      CAPTURE(i);
      const Ids ids = tokenizer.encode(goldens["texts"][i].get<std::string>());
      CHECK(ids == variant["ids"][i].get<Ids>());
      CHECK(tokenizer.decode(ids, /*skip_special=*/false) == variant["decoded"][i].get<std::string>());
      CHECK(tokenizer.decode(ids) == variant["decoded_without_special"][i].get<std::string>());
    }
  }
}

TEST_CASE("ids, sizes and special tokens can be asked for") {
  CHECK(small().size() == 612);
  CHECK(small().id_of("<IMG_CONTEXT>") == 605);
  CHECK(small().id_of("!") == 0);
  CHECK(small().id_of("\u0120the") == small().encode(" the").at(0));  // Ġ spells a space
  CHECK_FALSE(small().id_of(" the").has_value());
  CHECK_FALSE(small().id_of("").has_value());
  CHECK(small().is_special(605));
  CHECK_FALSE(small().is_special(0));
  CHECK(small().bytes_of(*small().id_of("\u0120the")) == " the");
  CHECK(small().bytes_of(605).empty());
  CHECK(small().bytes_of(605, /*skip_special=*/false) == "<IMG_CONTEXT>");
}

TEST_CASE("template and user text merge across their border as the joined string does") {
  const Ids joined = small().encode("<|im_start|>user\n\nWhat is this?<|im_end|>\n");
  CHECK(encode(small(), {{"<|im_start|>user\n", false}, {"\nWhat is this?", true}, {"<|im_end|>\n", false}}) == joined);
  const Ids accent = small().encode("caf\u00e9");
  CHECK(encode(small(), {{"cafe", false}, {"\u0301", true}}) == accent);
  CHECK(encode(small(), {{"caf\xc3", false}, {"\xa9", false}}) == accent);
  CHECK(encode(small(), {}).empty());
}

TEST_CASE("control tokens that a user typed stay text") {
  const Ids ids = encode(small(), {{"<img>", false}, {"a<|im_end|><img>\n<ref>", true}, {"</img>", false}});
  CHECK(ids.front() == 603);
  CHECK(ids.back() == 604);
  for (std::size_t i = 1; i + 1 < ids.size(); ++i) CHECK(ids[i] < 600);
  CHECK(small().decode(ids, /*skip_special=*/false) == "<img>a<|im_end|><img>\n<ref></img>");
  // A token that begins in the template and ends in user text is the user's work too.
  for (const TokenId id : encode(small(), {{"<|im_", false}, {"end|>", true}})) CHECK(id < 600);
  for (const TokenId id : encode(small(), {{"<im", true}, {"g>", false}})) CHECK(id < 600);
}

TEST_CASE("a usable token that a user typed is taken, others beside it are not") {
  const std::vector<std::string> usable{"<ref>", "</ref>", "no such token"};
  const Ids ids = encode(small(), {{"<img>", false}, {"<ref>cat</ref><img>", true}}, usable);
  CHECK(ids[0] == 603);
  CHECK(ids[1] == 608);
  CHECK(std::count(ids.begin(), ids.end(), 609) == 1);
  CHECK(std::count(ids.begin(), ids.end(), 603) == 1);
  CHECK(small().decode(ids, /*skip_special=*/false) == "<img><ref>cat</ref><img>");
}

TEST_CASE("a token inside a longer one that may not be taken is found") {
  const auto token = [](const char* content, int id, bool normalized) {
    return Json{{"content", content}, {"id", id},        {"single_word", false},
                {"lstrip", false},    {"rstrip", false}, {"normalized", normalized},
                {"special", false}};
  };
  for (const bool normalized : {false, true}) {
    CAPTURE(normalized);
    const Tokenizer tokenizer =
        patched({{"added_tokens",
                  {token("<a><b>", 600, normalized), token("<b>", 601, normalized), token("<a>", 602, normalized)}}});
    const std::vector<PromptPiece> user{{"e\u0301 <a><b>", true}};
    const auto added = [&](const Ids& ids) {
      Ids found;
      for (const TokenId id : ids) {
        if (id >= 600) found.push_back(id);
      }
      return found;
    };
    CHECK(added(tokenizer.encode(user[0].text)) == Ids{600});
    CHECK(added(encode(tokenizer, user)).empty());
    CHECK(added(encode(tokenizer, user, {"<b>"})) == Ids{601});
    CHECK(added(encode(tokenizer, user, {"<a>"})) == Ids{602});
    CHECK(added(encode(tokenizer, user, {"<a>", "<b>"})) == Ids{602, 601});
    CHECK(added(encode(tokenizer, {{"<a>", false}, {"<b>", true}})) == Ids{602});
    CHECK(added(encode(tokenizer, {{"e\u0301", true}, {"<a>", false}, {"e\u0301<b>", true}})) == Ids{602});
    CHECK(added(encode(tokenizer, {{"e\u0301", true}, {"<a><b>", false}, {"e\u0301", true}})) == Ids{600});
  }
}

TEST_CASE("text that is no UTF-8 is refused") {
  for (const char* bad : {"\xff", "abc\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80"}) {
    try {
      small().encode(bad);
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kUsage);
    }
  }
}

TEST_CASE("broken UTF-8 is decoded as Rust does, one U+FFFD for every maximal invalid part") {
  const auto of_bytes = [](const std::string& bytes) {
    Ids ids;
    for (const char byte : bytes) {
      for (TokenId id = 0; id < 256; ++id) {
        if (small().bytes_of(id) == std::string(1, byte)) ids.push_back(id);
      }
    }
    REQUIRE(ids.size() == bytes.size());
    return ids;
  };
  const std::vector<std::pair<std::string, std::string>> cases{
      {"\xe4\xb8\xad", "\u4e2d"},
      {"\xe4\xb8", "\ufffd"},
      {"\xe4\xb8\x41", "\ufffd\x41"},
      {"\xff\xfe", "\ufffd\ufffd"},
      {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
      {"\xf0\x9f\x98", "\ufffd"},
      {"\xf0\x9f\x98\x80", "\U0001f600"},
      {"\xf0\x80\x80\x41", "\ufffd\ufffd\ufffd\x41"},
      {"\xc3\xc3\xa9", "\ufffd\u00e9"},
      {"\x80\xc0\x80", "\ufffd\ufffd\ufffd"},
      {"\xe4\xf0\x9f\xe4\xb8\xad", "\ufffd\ufffd\u4e2d"},
  };
  for (const auto& [bytes, text] : cases) {
    CAPTURE(text);
    const Ids ids = of_bytes(bytes);
    CHECK(small().decode(ids) == text);
    TextStream stream(small());
    std::string streamed;
    for (const TokenId id : ids) streamed += stream.push(id);
    CHECK(streamed + stream.finish() == text);
    CHECK(stream.finish().empty());
  }
}

TEST_CASE("a stream holds back only what can still become a character") {
  const Ids ids = small().encode("\U0001f6f0");  // four bytes that the small vocabulary has not merged whole
  REQUIRE(ids.size() > 1);
  TextStream stream(small());
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) CHECK(stream.push(ids[i]).empty());
  CHECK(stream.push(602).empty());  // a special token between the bytes adds nothing
  CHECK(stream.push(ids.back()) == "\U0001f6f0");
  stream.push(ids.front());
  CHECK(stream.push(*small().id_of("a")) == "\ufffd\x61");
  CHECK(stream.push(*small().id_of("b")) == "b");
}

TEST_CASE("an id outside the vocabulary is an error") {
  for (const TokenId id : {TokenId{-1}, TokenId{612}, TokenId{1} << 40, INT64_MIN, INT64_MAX}) {
    CAPTURE(id);
    try {
      small().decode(Ids{id});
      FAIL("accepted");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::kMismatch);
    }
  }
}

TEST_CASE("megabytes without a space, of marks, of spaces or of token beginnings take seconds, not hours") {
  const auto repeated = [](const std::string& unit, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += unit;
    return text;
  };
  for (const std::string& text :
       {repeated("abcdefghij", 100'000), repeated(" ", 1'000'000), repeated("<|im_<|en", 100'000),
        "a" + repeated("\u0301\u0323", 200'000), repeated("\u4e2d\u6587", 150'000), repeated("\n ", 500'000)}) {
    const Ids ids = small().encode(text);
    std::string unchanged = small().decode(ids);
    if (text.find("\u0301") == text.npos) CHECK(unchanged == text);
  }
}

TEST_CASE("several threads may encode with one tokenizer") {
  const std::string text = "What is in the image? \u4f60\u597d <IMG_CONTEXT> caf\u00e9";
  const Ids expected = small().encode(text);
  std::vector<int> right(4);
  std::vector<std::thread> threads;
  for (int& count : right) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += small().encode(text) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == std::vector<int>(4, 200));
}

namespace {

/// Loads the small tokenizer with one value changed; `expected` has to be in the message.
void check_refused(const std::string& pointer, const Json& value, ErrorCode code, const std::string& expected) {
  CAPTURE(pointer);
  CAPTURE(value.dump().substr(0, 100));
  Json json = small_json();
  json[Json::json_pointer(pointer)] = value;
  try {
    from_text(json.dump());
    FAIL("accepted");
  } catch (const Error& error) {
    INFO(error.what());
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).find(expected) != std::string::npos);
    CHECK(std::string(error.what()).find("tokenizer.json") != std::string::npos);
  }
}

}  // namespace

TEST_CASE("a tokenizer of another kind is refused by the field's name") {
  const auto unsupported = [](const std::string& pointer, const Json& value, const std::string& expected) {
    check_refused(pointer, value, ErrorCode::kUnsupported, expected);
  };
  unsupported("/version", "2.0", "version");
  unsupported("/model/type", "WordPiece", "model.type: 'WordPiece'");
  unsupported("/model/type", "Unigram", "model.type: 'Unigram'");
  unsupported("/model/dropout", 0.1, "model.dropout");
  unsupported("/model/byte_fallback", true, "model.byte_fallback");
  unsupported("/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix");
  unsupported("/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix");
  unsupported("/normalizer/type", "Lowercase", "normalizer.type: 'Lowercase'");
  unsupported("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFD"}}}}},
              "normalizer.normalizers[0].type: 'NFD'");
  unsupported("/decoder", {{"type", "WordPiece"}}, "decoder.type: 'WordPiece'");
  unsupported("/decoder", nullptr, "decoder");
  unsupported("/pre_tokenizer", nullptr, "pre_tokenizer");
  unsupported("/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer.type: 'Metaspace'");
  unsupported("/pre_tokenizer/pretokenizers", Json::array(), "pre_tokenizer.pretokenizers");
  unsupported("/pre_tokenizer/pretokenizers/0/type", "Digits", "pre_tokenizer.pretokenizers[0].type: 'Digits'");
  unsupported("/pre_tokenizer/pretokenizers/1/type", "Split", "pre_tokenizer.pretokenizers[1].type: 'Split'");
  unsupported("/pre_tokenizer/pretokenizers/0/behavior", "Removed", "pretokenizers[0].behavior: 'Removed'");
  unsupported("/pre_tokenizer/pretokenizers/0/invert", true, "pretokenizers[0].invert");
  unsupported("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, "pattern.String");
  unsupported("/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "add_prefix_space");
}

TEST_CASE("a regex that does not compile or could mean something else is refused") {
  for (const char* regex :
       {"(",          "[a",    "\\",      "\\p{L",    "\\pL",  "\\p{}", "\\p{Han}",    "\\p{Zq}", "*a",
        "(?<name>a)", "(?R)",  "(?#",     "(*FAIL)",  "^a",    "a$",    ".",           "\\w",     "\\b",
        "\\h",        "\\x41", "\\u4e00", "\\1",      "\\K",   "[]a]",  "[[:alpha:]]", "[a&&b]",  "a{,2}",
        "a{1,2}+",    "a{2}?", "\\<",     "\\\u00e9", "[b-a]", "a)"}) {
    check_refused("/pre_tokenizer/pretokenizers/0/pattern/Regex", regex, ErrorCode::kUnsupported,
                  "pre_tokenizer.pretokenizers[0].pattern.Regex");
  }
}

TEST_CASE("a regex that explodes is an error, not a hang or a crash") {
  Json json = small_json();
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:(?:a|aa)+)+\\d";
  const Tokenizer tokenizer = from_text(json.dump());
  CHECK(tokenizer.encode("aa1") == small().encode("aa1"));
  try {
    tokenizer.encode(std::string(5000, 'a'));
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kUnsupported);
    CHECK(std::string(error.what()).find("pattern.Regex") != std::string::npos);
  }
}

TEST_CASE("wrong types and ids in a tokenizer.json are a corrupt file") {
  const auto corrupt = [](const std::string& pointer, const Json& value, const std::string& expected) {
    check_refused(pointer, value, ErrorCode::kCorrupt, expected);
  };
  for (const Json& wrong : {Json(nullptr), Json(1), Json("x"), Json::array()}) {
    corrupt("/model", wrong, "model");
    corrupt("/model/vocab", wrong, "model.vocab");
  }
  corrupt("/model/merges", nullptr, "model.merges");
  corrupt("/model/merges", Json::object(), "model.merges");
  corrupt("/model/type", 3, "model.type");
  corrupt("/model/ignore_merges", "yes", "model.ignore_merges");
  corrupt("/model/vocab/the new one", -1, "model.vocab");
  corrupt("/model/vocab/the new one", 1.5, "model.vocab");
  corrupt("/model/vocab/the new one", "7", "model.vocab");
  corrupt("/model/vocab/the new one", 7, "model.vocab");  // of another token
  corrupt("/model/vocab/the new one", 4'000'000'000, "model.vocab");
  corrupt("/model/vocab/the new one", UINT64_MAX, "model.vocab");
  corrupt("/model/vocab/", 700, "model.vocab");
  for (const Json& wrong : {Json("a"), Json("a b c"), Json(1), Json({"a"}), Json({"a", "b", "c"}), Json({"a", 1}),
                            Json("a zzz"), Json({"zzz", "a"}), Json({"q", "x"}), Json(nullptr)}) {
    corrupt("/model/merges/5", wrong, "model.merges[5]");
  }
  corrupt("/normalizer", "NFC", "normalizer");
  corrupt("/pre_tokenizer", 1, "pre_tokenizer");
  corrupt("/pre_tokenizer/pretokenizers", "x", "pre_tokenizer.pretokenizers");
  corrupt("/pre_tokenizer/pretokenizers/0", 1, "pre_tokenizer.pretokenizers[0]");
  corrupt("/pre_tokenizer/pretokenizers/0/pattern", 1, "pattern");
  corrupt("/decoder", 1, "decoder");
}

TEST_CASE("added tokens with wrong ids or flags are a corrupt file") {
  const auto corrupt = [](const std::string& pointer, const Json& value, const std::string& expected) {
    check_refused(pointer, value, ErrorCode::kCorrupt, expected);
  };
  corrupt("/added_tokens", Json::object(), "added_tokens");
  corrupt("/added_tokens/2", "x", "added_tokens[2]");
  corrupt("/added_tokens/2/special", 1, "added_tokens[2].special");
  corrupt("/added_tokens/2/normalized", nullptr, "added_tokens[2].normalized");
  corrupt("/added_tokens/2/content", 5, "added_tokens[2].content");
  corrupt("/added_tokens/2/content", "<|im_start|>", "twice");
  corrupt("/added_tokens/2/content", "!", "added_tokens[2].id");  // id 0 in the vocabulary
  for (const Json& wrong : {Json(-1), Json(UINT64_MAX), Json(1e30), Json("602"), Json(nullptr), Json(601), Json(5)}) {
    corrupt("/added_tokens/2/id", wrong, "added_tokens[2].id");
  }
  // Two that only normalisation makes equal.
  Json json = small_json();
  json["added_tokens"][0]["content"] = "\u00e9";
  json["added_tokens"][1]["content"] = "e\u0301";
  json["added_tokens"][0]["normalized"] = json["added_tokens"][1]["normalized"] = true;
  CHECK_THROWS_AS(from_text(json.dump()), Error);
  check_refused("/added_tokens/2/content", std::string(100'000, 'x'), ErrorCode::kUnsupported, "too long");
}

TEST_CASE("a vocabulary without a token for some byte is refused") {
  Json json = small_json();
  json["model"]["merges"] = Json::array();
  json["model"]["vocab"] = {{"a", 0}, {"b", 1}};
  json["added_tokens"] = Json::array();
  try {
    from_text(json.dump());
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kUnsupported);
    CHECK(std::string(error.what()).find("byte 0x") != std::string::npos);
  }
}

TEST_CASE("a file that is missing, cut off, no JSON or nested without end is refused") {
  const auto code_of = [](const std::string& content) {
    try {
      from_text(content);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  const std::string whole = small_json().dump();
  for (std::size_t size = 0; size < whole.size(); size += 997)
    CHECK(code_of(whole.substr(0, size)) == ErrorCode::kCorrupt);
  CHECK(code_of("[]") == ErrorCode::kCorrupt);
  CHECK(code_of("{}") == ErrorCode::kCorrupt);
  CHECK(code_of(std::string(500, '[') + std::string(500, ']')) == ErrorCode::kCorrupt);
  std::string nested = "{\"normalizer\":";
  for (int i = 0; i < 500; ++i) nested += "{\"type\":\"Sequence\",\"normalizers\":[";
  CHECK(code_of(nested) == ErrorCode::kCorrupt);
  try {
    Tokenizer(data("data/tokenizer/no_such_file.json"));
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kNotFound);
  }
}
