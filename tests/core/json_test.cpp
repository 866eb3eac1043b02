#include "vlmzoo/json.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "../support.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

using namespace vlmzoo;

namespace {

template <typename Work>
std::string message_of(ErrorCode code, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("no error");
  return "";
}

std::string corrupt(const std::string& text) {
  return message_of(ErrorCode::kCorrupt, [&] { parse_json(text, "file.json"); });
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string nested(std::size_t depth, const std::string& open, const std::string& close) {
  std::string text;
  for (std::size_t i = 0; i < depth; ++i) text += open;
  text += "1";
  for (std::size_t i = 0; i < depth; ++i) text += close;
  return text;
}

}  // namespace

TEST_CASE("every kind of JSON value parses as nlohmann's own parser does") {
  const std::string text =
      R"({"a": [1, -2, 2.5, 1e300, true, false, null, "x\u00e9\n", [], {}, [[{"b": [3]}]]], "z": {"a": {"a": 18446744073709551615}}})";
  CHECK(parse_json(text, "") == Json::parse(text));
  CHECK(parse_json("7", "") == 7);
  CHECK(parse_json("\xEF\xBB\xBF[1]", "") == Json::array({1}));
}

TEST_CASE("broken JSON is refused with the file and the byte") {
  CHECK(contains(corrupt(R"({"a": })"), "file.json: not valid JSON at byte 7: "));
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":1,}", "[1] 2", "nul", "NaN", "\"\xff\"", "\"\x01\"", "'a'",
                           "[1 2]", "{1: 2}", "1e999", "\"\\ud800\"", "// c\n1"}) {
    CAPTURE(text);
    CHECK(contains(corrupt(text), "file.json"));
  }
}

TEST_CASE("a key that appears twice in one object is refused, in two objects not") {
  const std::string message = corrupt(R"({"x": [{"name": 1, "name": 2}]})");
  CHECK(contains(message, "'name' appears twice"));
  CHECK(contains(message, "byte 25"));
  CHECK(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "").size() == 2);
}

TEST_CASE("64 levels are read and 65 refused, as is a depth that would break a recursive parser") {
  CHECK_NOTHROW(parse_json(nested(64, "[", "]"), ""));
  CHECK_NOTHROW(parse_json(nested(64, "{\"k\":", "}"), ""));
  CHECK(contains(corrupt(nested(65, "[", "]")), "more than 64 levels"));
  CHECK(contains(corrupt(nested(65, "{\"k\":", "}")), "more than 64 levels"));
  CHECK(contains(corrupt(std::string(10'000'000, '[')), "more than 64 levels"));
}

TEST_CASE("a message stays short and valid UTF-8 whatever the file holds") {
  for (const std::string& text :
       {"[\"" + std::string(1'000'000, 'a'),
        "{\"" + std::string(100'000, 'k') + "\": 1, \"" + std::string(100'000, 'k') + "\": 2}",
        std::string("[\"\xe4\xb8\xad\xff\"]"), "[" + std::string(100'000, 'n')}) {
    const std::string message = corrupt(text);
    CHECK(message.size() < 500);
    CHECK(is_utf8(message));
  }
}

TEST_CASE("read_json wants an object and names the file") {
  const test::TemporaryFolder folder;
  write_file(folder / "good.json", R"({"a": 1})");
  CHECK(read_json(folder / "good.json")["a"] == 1);
  for (const char* text : {"", "[1]", "3", "\"a\""}) {
    write_file(folder / "bad.json", text);
    CHECK(contains(message_of(ErrorCode::kCorrupt, [&] { read_json(folder / "bad.json"); }),
                   (folder / "bad.json").string()));
  }
  message_of(ErrorCode::kNotFound, [&] { read_json(folder / "absent.json"); });
  message_of(ErrorCode::kCorrupt, [&] { read_json(folder / "good.json", /*limit=*/3); });
}

TEST_CASE("a view gives typed values, and the defaults only for absent keys and null") {
  const Json json =
      parse_json(R"({"n": 3, "f": 2.5, "t": "x", "b": true, "nothing": null, "o": {"p": {"q": -1}}})", "");
  const JsonView view(json, "config.json");
  CHECK(view.integer("n", 0, 10) == 3);
  CHECK(view.number("n") == 3.0);
  CHECK(view.number("f") == 2.5);
  CHECK(view.text("t") == "x");
  CHECK(view.boolean("b"));
  CHECK(view.child("o").child("p").integer("q", -1, -1) == -1);
  CHECK(view.has("n"));
  CHECK_FALSE(view.has("nothing"));
  CHECK_FALSE(view.has("absent"));
  for (const char* key : {"nothing", "absent"}) {
    CHECK(view.integer_or(key, 0, 10, 77) == 77);
    CHECK(view.number_or(key, 0.5) == 0.5);
    CHECK(view.text_or(key, "d") == "d");
    CHECK(view.boolean_or(key, true));
  }
  CHECK(view.integer_or("n", 0, 10, 77) == 3);
  message_of(ErrorCode::kConfig, [&] { view.integer_or("t", 0, 10, 77); });
  message_of(ErrorCode::kConfig, [&] { view.boolean_or("n", true); });
}

TEST_CASE("a wrong value is told with file, path, expected and got") {
  const Json json =
      parse_json(R"({"vision_config": {"hidden_size": -3, "name": "big", "list": [1], "huge": 18446744073709551615,
                                   "half": 0.5, "none": null}})",
                 "");
  const JsonView view = JsonView(json, "config.json").child("vision_config");
  const auto message = [&](const std::string& key) {
    return message_of(ErrorCode::kConfig, [&] { view.integer(key, 1, 4096); });
  };
  CHECK(message("hidden_size") == "config.json: vision_config.hidden_size: expected an integer from 1 to 4096, got -3");
  CHECK(contains(message("name"), "got the text 'big'"));
  CHECK(contains(message("list"), "got a list"));
  CHECK(contains(message("huge"), "got 18446744073709551615"));
  CHECK(contains(message("half"), "got 0.5"));
  CHECK(message("none") == "config.json: vision_config.none is missing, expected an integer");
  CHECK(message("absent") == "config.json: vision_config.absent is missing, expected an integer");
  message_of(ErrorCode::kConfig, [&] { view.number("name"); });
  message_of(ErrorCode::kConfig, [&] { view.text("half"); });
  message_of(ErrorCode::kConfig, [&] { view.boolean("half"); });
  message_of(ErrorCode::kConfig, [&] { view.child("name"); });
  message_of(ErrorCode::kConfig, [&] { view.child("absent"); });
  message_of(ErrorCode::kConfig, [&] {
    view.integer("huge", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max());
  });
}

TEST_CASE("a view of something that is no object has no keys") {
  const Json json = Json::array({1, 2});
  const JsonView view(json, "config.json");
  CHECK_FALSE(view.has("a"));
  message_of(ErrorCode::kConfig, [&] { view.integer("a", 0, 1); });
}
