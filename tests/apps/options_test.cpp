#include "options.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "table.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

/// The options of a verb that doesn't exist, with one of every kind.
struct Sample {
  std::string prompt, output;
  std::int64_t max_new_tokens = 50, seed = 7;
  double temperature = 0.7;
  std::vector<std::string> images;
  bool json = false, quiet = false;
  Options options{{"sample", "[options] FILE…", "Samples.", "vlmzoo sample --json cat.jpg"}};

  Sample() {
    options.add()("prompt", po::value(&prompt)->value_name("TEXT"), "question")(
        "output", po::value(&output)->value_name("FILE"), "file")("max-new-tokens", po::value(&max_new_tokens),
                                                                  "tokens")("seed", po::value(&seed), "seed")(
        "temperature", po::value(&temperature), "temperature")("image", po::value(&images), "picture")(
        "json", po::bool_switch(&json), "print JSON")("quiet", po::bool_switch(&quiet), "say less");
    options.synonym("-p", "prompt");
    options.synonym("--max-tokens", "max-new-tokens");
    options.positional("image");
  }

  bool parse(const std::vector<std::string>& arguments) { return options.parse(arguments); }
};

/// The message of the usage error that the arguments cause; "" when they cause none.
std::string refusal(const std::vector<std::string>& arguments) {
  Sample sample;
  try {
    sample.parse(arguments);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kUsage);
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Sets an environment variable for the life of one test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, /*overwrite=*/1); }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

}  // namespace

TEST_CASE("an option takes its value behind a space or an equals sign") {
  Sample sample;
  CHECK(sample.parse({"--max-new-tokens", "5", "--temperature=0.25"}));
  CHECK(sample.max_new_tokens == 5);
  CHECK(sample.temperature == 0.25);
}

TEST_CASE("a value may begin with a dash, be empty, or hold an equals sign") {
  Sample sample;
  CHECK(sample.parse({"--prompt", "--json", "--seed", "-3", "--output="}));
  CHECK(sample.prompt == "--json");
  CHECK_FALSE(sample.json);
  CHECK(sample.seed == -3);
  CHECK(sample.options.given("output"));
  CHECK(sample.output.empty());

  Sample other;
  CHECK(other.parse({"--prompt=a=b", "--output", "-"}));
  CHECK(other.prompt == "a=b");
  CHECK(other.output == "-");
}

TEST_CASE("options that aren't given keep their defaults") {
  Sample sample;
  CHECK(sample.parse({"--json"}));
  CHECK(sample.max_new_tokens == 50);
  CHECK(sample.temperature == 0.7);
  CHECK_FALSE(sample.options.given("max-new-tokens"));
  CHECK(sample.options.given("json"));
  CHECK(sample.json);
  CHECK_FALSE(sample.quiet);
}

TEST_CASE("synonyms stand for their option") {
  Sample sample;
  CHECK(sample.parse({"-p", "-what?", "--max-tokens", "9"}));
  CHECK(sample.prompt == "-what?");
  CHECK(sample.max_new_tokens == 9);
  CHECK(sample.options.given("max-new-tokens"));
}

TEST_CASE("a repeatable option and arguments without a name collect in their order") {
  Sample sample;
  CHECK(sample.parse({"a.png", "--image", "b.png", "c.png", "--", "--json", "-"}));
  CHECK(sample.images == std::vector<std::string>{"a.png", "b.png", "c.png", "--json", "-"});
  CHECK_FALSE(sample.json);
}

TEST_CASE("an option that isn't repeatable is refused when given twice") {
  CHECK(contains(refusal({"--seed", "1", "--seed", "2"}), "seed"));
  CHECK(contains(refusal({"--max-tokens", "1", "--max-new-tokens", "2"}), "max-new-tokens"));
}

TEST_CASE("an unknown option is refused with the nearest known one") {
  CHECK(contains(refusal({"--promt", "x"}), "unknown option '--promt'; did you mean '--prompt'?"));
  CHECK(contains(refusal({"--max-new-token=3"}), "did you mean '--max-new-tokens'?"));
  CHECK(contains(refusal({"-image", "x"}), "did you mean '--image'?"));
  CHECK(refusal({"--xyzzy"}) == "unknown option '--xyzzy'");
  CHECK(refusal({"-z"}) == "unknown option '-z'");
  CHECK(refusal({"---"}) == "unknown option '---'");
}

TEST_CASE("a prefix of an option is not the option") {
  CHECK(contains(refusal({"--temp", "1"}), "unknown option '--temp'; did you mean '--temperature'?"));
  CHECK(contains(refusal({"--max", "1"}), "unknown option '--max'"));
  CHECK(contains(refusal({"-seed", "1"}), "unknown option '-seed'"));
}

TEST_CASE("a missing, needless or wrong value is refused") {
  CHECK(refusal({"--prompt"}) == "option '--prompt' needs a value");
  CHECK(refusal({"--json=1"}) == "option '--json' takes no value");
  CHECK(contains(refusal({"--seed", "x"}), "seed"));
  CHECK(contains(refusal({"--seed", "1.5"}), "seed"));
  CHECK(contains(refusal({"--seed", "99999999999999999999"}), "seed"));
  CHECK(contains(refusal({"--temperature", "warm"}), "temperature"));
  CHECK(contains(refusal({"--seed="}), "seed"));
}

TEST_CASE("an argument is refused where none is expected") {
  Options options({"sample", "", "", ""});
  CHECK_THROWS_WITH_AS(options.parse(std::vector<std::string>{"cat.jpg"}), "unexpected argument 'cat.jpg'", Error);
}

TEST_CASE("the environment fills in what the command line leaves out") {
  const Environment tokens("VLMZOO_MAX_NEW_TOKENS", "12"), seed("VLMZOO_SEED", "3"), json("VLMZOO_JSON", "1"),
      quiet("VLMZOO_QUIET", "0"), image("VLMZOO_IMAGE", "e.png"), prompt("VLMZOO_PROMPT", "");
  Sample sample;
  CHECK(sample.parse({"--seed", "4"}));
  CHECK(sample.max_new_tokens == 12);
  CHECK(sample.seed == 4);
  CHECK(sample.json);
  CHECK_FALSE(sample.quiet);
  CHECK(sample.images == std::vector<std::string>{"e.png"});
  CHECK_FALSE(sample.options.given("prompt"));  // an empty variable counts as unset

  Sample other;
  CHECK(other.parse({"--quiet", "c.png"}));
  CHECK(other.quiet);
  CHECK(other.images == std::vector<std::string>{"c.png"});
}

TEST_CASE("a wrong value in the environment names the variable") {
  {
    const Environment tokens("VLMZOO_MAX_NEW_TOKENS", "many");
    CHECK(contains(refusal({}), "VLMZOO_MAX_NEW_TOKENS"));
    CHECK(refusal({"--max-new-tokens", "3"}).empty());
  }
  const Environment json("VLMZOO_JSON", "maybe");
  CHECK(refusal({}) == "VLMZOO_JSON=maybe: expected 1 or 0");
}

TEST_CASE("help tells every option, the synonyms and an example") {
  const Sample sample;
  const std::string help = sample.options.help();
  for (const char* part : {"Usage: vlmzoo sample [options] FILE…", "--prompt TEXT", "--max-new-tokens", "--json",
                           "--help", "-p = --prompt", "VLMZOO_", "vlmzoo sample --json cat.jpg"}) {
    CAPTURE(part);
    CHECK(contains(help, part));
  }
}

TEST_CASE("text has to be UTF-8 and numbers inside their range") {
  CHECK_NOTHROW(require_utf8("prompt", "¿qué? 猫"));
  CHECK_THROWS_WITH_AS(require_utf8("prompt", "\xff"), "the value of --prompt has to be UTF-8", Error);
  CHECK_NOTHROW(require_range("threads", 1, 1, 8));
  CHECK_THROWS_WITH_AS(require_range("threads", 0, 1, 8), "--threads is 0; expected 1 to 8", Error);
}

TEST_CASE("a table aligns its columns by characters and disarms control characters") {
  Table table({"name", ">count"});
  table.add({"naïve", "1"});
  table.add({"a\x1b[31m", "1,000"});
  CHECK(table.text() ==
        "name    count\n"
        "naïve       1\n"
        "a?[31m  1,000\n");
}

TEST_CASE("numbers are grouped by thousands") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(938'123'456) == "938,123,456");
  CHECK(grouped(-1000) == "-1,000");
  CHECK(grouped(-100) == "-100");
}

}  // namespace vlmzoo::app
