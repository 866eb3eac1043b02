#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <opencv2/imgcodecs.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "program.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

// switch, rollback, history, --zoo and explain as a user runs them, on small checkpoints of both models.
namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(VLMZOO_TEST_DATA) / "data";

/// Runs a command of the shell in the zoo's folder, with `vlmzoo` on the path.
Result shell_in(const fs::path& folder, const std::string& command) {
  return shell(fmt::format("cd {} && export OMP_NUM_THREADS=1 PATH={}:\"$PATH\" && {{ {}\n}}", quote(folder.string()),
                           quote(fs::path(VLMZOO_PROGRAM).parent_path().string()), command));
}

std::set<std::string> keys(const Json& object) {
  std::set<std::string> result;
  for (const auto& [key, value] : object.items()) result.insert(key);
  return result;
}

/// A folder with checkpoints of both models, their configurations, a picture of 300×200 and a zoo file.
struct Demo {
  TemporaryFolder folder;
  fs::path zoo = folder / "zoo.yaml";

  Demo() {
    init("internvl", kData / "internvl" / "release", kData / "tokenizer" / "tokenizer.json");
    const fs::path llama = kData / "llama_vision" / "instruct";
    init("llama_vision", llama, llama / "tokenizer.json");
    configure("internvl", "internvl", "internvl");
    configure("llama_vision", "llama-vision", "llama_vision");
    cv::Mat picture(200, 300, CV_8UC3, cv::Scalar(200, 40, 40));
    picture.colRange(150, 300) = cv::Scalar(40, 40, 200);
    REQUIRE(cv::imwrite(folder / "picture.png", picture));
    reset();
  }

  void configure(const std::string& name, const std::string& type, const std::string& checkpoint) const {
    write_file(folder / (name + ".yaml"),
               fmt::format("model: {{model_type: {}, pretrained_path: {}, precision: fp32}}\n", type, checkpoint));
  }

  /// The zoo file as at first, without a history.
  void reset(const std::string& more = "") const {
    fs::remove(folder / "zoo.yaml.history.jsonl");
    write_file(
        zoo,
        "active: internvl  # for now\nmodels:\n  internvl: internvl.yaml\n  llama_vision: llama_vision.yaml\n" + more);
  }

  Result run(const std::string& command) const { return shell_in(folder.path(), command); }
  Json json(const std::string& command) const {
    const Result result = run(command);
    INFO(command);
    INFO(result.err);
    REQUIRE(result.code == 0);
    return Json::parse(result.out);
  }
  void refused(const std::string& command, int code, const std::string& part) const {
    const Result result = run(command);
    CAPTURE(command);
    CAPTURE(result.err);
    CHECK(result.code == code);
    CHECK(result.out.empty());
    CHECK(contains(result.err, part));
  }

 private:
  void init(const std::string& name, const fs::path& settings, const fs::path& tokenizer) const {
    const Result result =
        run(fmt::format("vlmzoo init --config-json {0}/config.json --preprocessor "
                        "{0}/preprocessor_config.json --generation {0}/generation_config.json "
                        "--tokenizer {1} --output {2}",
                        quote(settings), quote(tokenizer), name));
    INFO(result.err);
    REQUIRE(result.code == 0);
  }
};

const Demo& demo() {
  static const Demo instance;
  return instance;
}

}  // namespace

TEST_CASE("switch tries the model, changes one word of the file and records it; rollback takes it back") {
  demo().reset();
  const std::string before = read_file(demo().zoo);
  const Json done = demo().json("vlmzoo switch llama_vision --zoo zoo.yaml --reason 'small print' --json");
  CHECK(keys(done) == std::set<std::string>{"changed", "active", "record"});
  CHECK(done["changed"] == true);
  CHECK(done["active"] == "llama_vision");
  CHECK(read_file(demo().zoo) == "active: llama_vision" + before.substr(std::string("active: internvl").size()));
  const Json& probe = done["record"]["probe"];
  CHECK(keys(probe) == std::set<std::string>{"model_type", "model_fingerprint", "precision", "label", "probability",
                                             "head_trained", "answer_ids", "load_s", "latency_ms"});
  CHECK(probe["model_type"] == "llama-vision");
  CHECK(probe["model_fingerprint"].get<std::string>().size() == 64);
  CHECK(probe["head_trained"] == false);
  CHECK(probe["answer_ids"].size() >= 1);
  CHECK(probe["answer_ids"].size() <= 4);

  const Json history = demo().json("vlmzoo history --zoo zoo.yaml --json");
  CHECK(keys(history) == std::set<std::string>{"zoo", "active", "records"});
  REQUIRE(history["records"].size() == 1);
  CHECK(history["records"][0] == done["record"]);
  CHECK(keys(history["records"][0]) == std::set<std::string>{"n", "time", "user", "host", "action", "from", "to",
                                                             "reason", "probe", "zoo_sha256", "status"});
  CHECK(history["records"][0]["reason"] == "small print");
  CHECK(history["records"][0]["status"] == "completed");

  const Result same = demo().run("vlmzoo switch llama_vision --zoo zoo.yaml");
  CHECK(same.code == 0);
  CHECK(contains(same.out, "llama_vision is active already"));
  const Json back = demo().json("vlmzoo rollback --zoo zoo.yaml --json");
  CHECK(back["active"] == "internvl");
  CHECK(back["record"]["restores"] == 0);
  CHECK(read_file(demo().zoo) == before);
  demo().refused("vlmzoo rollback --zoo zoo.yaml", 1, "nothing to roll back to");
  const Result table = demo().run("vlmzoo history --zoo zoo.yaml");
  CHECK(contains(table.out, "small print"));
  CHECK(contains(table.out, "active: internvl"));
}

TEST_CASE("a model that doesn't work is refused with code 1, whatever is wrong with it, and recorded as failed") {
  const fs::path damaged = demo().folder / "damaged";
  fs::remove_all(damaged);
  fs::copy(demo().folder / "internvl", damaged);
  {
    // Every bf16 value of one matrix of the vision tower becomes NaN.
    const SafetensorsFile file(damaged / "model.safetensors");
    const TensorEntry* matrix = file.find("vision_model.encoder.layers.0.attn.proj.weight");
    REQUIRE(matrix != nullptr);
    std::string content = read_file(damaged / "model.safetensors");
    content.replace(matrix->begin, matrix->bytes(), matrix->bytes(), '\xFF');
    write_file(damaged / "model.safetensors", content);
  }
  demo().configure("nan", "internvl", "damaged");
  demo().configure("wrong_type", "llama-vision", "internvl");
  write_file(demo().folder / "wrong_key.yaml", "model: {pretrained_pth: internvl}\n");
  demo().reset("  nan: nan.yaml\n  wrong_type: wrong_type.yaml\n  wrong_key: wrong_key.yaml\n  absent: absent.yaml\n");
  const std::string before = read_file(demo().zoo);
  demo().refused("vlmzoo switch nan --zoo zoo.yaml", 1, "not finite");
  demo().refused("vlmzoo switch wrong_type --zoo zoo.yaml", 1, "'internvl' stays active");
  demo().refused("vlmzoo switch wrong_key --zoo zoo.yaml", 1, "wrong_key.yaml:1");
  demo().refused("vlmzoo switch absent --zoo zoo.yaml", 1, "absent.yaml");
  CHECK(read_file(demo().zoo) == before);
  const Json history = demo().json("vlmzoo history --zoo zoo.yaml --json");
  REQUIRE(history["records"].size() == 4);
  for (const Json& record : history["records"]) {
    CHECK(record["status"] == "failed");
    CHECK_FALSE(record["error"].get<std::string>().empty());
  }
  CHECK(demo().run("vlmzoo switch nan --zoo zoo.yaml --no-probe").code == 0);
}

TEST_CASE("a wrong command line or zoo file ends with code 2, an unknown name with 1") {
  demo().reset();
  demo().refused("vlmzoo switch --zoo zoo.yaml", 2, "name one model");
  demo().refused("vlmzoo switch internvl llama_vision --zoo zoo.yaml", 2, "name one model");
  demo().refused("vlmzoo switch internvl", 2, "--zoo is missing");
  demo().refused("vlmzoo rollback", 2, "--zoo is missing");
  demo().refused("vlmzoo history", 2, "--zoo is missing");
  demo().refused("vlmzoo switch lama_vision --zoo zoo.yaml", 1, "did you mean 'llama_vision'?");
  demo().refused("vlmzoo switch internvl --zoo nowhere.yaml", 1, "nowhere.yaml");
  write_file(demo().folder / "bad.yaml", "active: gone\nmodels: {internvl: internvl.yaml}\n");
  for (const char* verb : {"switch internvl", "rollback", "history", "info", "explain picture.png"}) {
    demo().refused(fmt::format("vlmzoo {} --zoo bad.yaml", verb), 2, "bad.yaml:1: active: there is no model 'gone'");
  }
}

TEST_CASE("each verb explains itself with an example") {
  for (const char* verb : {"switch", "rollback", "history", "explain"}) {
    CAPTURE(verb);
    const Result help = demo().run(fmt::format("vlmzoo {} --help", verb));
    CHECK(help.code == 0);
    CHECK(contains(help.out, fmt::format("Usage: vlmzoo {} ", verb)));
    CHECK(contains(help.out, fmt::format("Example:\n  vlmzoo {} ", verb)));
    CHECK(contains(demo().run("vlmzoo --help").out, fmt::format("\n  {} ", verb)));
  }
}

TEST_CASE("a history that a crash cut short is shown, with code 1 and what to do") {
  demo().reset();
  CHECK(demo().run("vlmzoo switch llama_vision --zoo zoo.yaml --no-probe").code == 0);
  const fs::path file = demo().folder / "zoo.yaml.history.jsonl";
  write_file(file, read_file(file) + "{\"n\": 2, \"ti");
  const Result history = demo().run("vlmzoo history --zoo zoo.yaml --json");
  CHECK(history.code == 1);
  CHECK(contains(history.err, "zoo.yaml.history.jsonl:2: the last line is incomplete"));
  CHECK(Json::parse(history.out)["records"].size() == 1);
  const Result back = demo().run("vlmzoo rollback --zoo zoo.yaml --no-probe");
  CHECK(back.code == 0);
  CHECK(contains(back.err, "is removed"));
  write_file(file, "nonsense\n" + read_file(file));
  demo().refused("vlmzoo history --zoo zoo.yaml", 1, "zoo.yaml.history.jsonl:1: not a record");
}

TEST_CASE("--zoo stands for the configuration that is active; the command line wins over the environment") {
  demo().reset();
  const auto model_of = [](const std::string& command) {
    return fs::path(demo().json(command)["model"].get<std::string>()).filename().string();
  };
  CHECK(model_of("vlmzoo info --json --zoo zoo.yaml") == "internvl");
  CHECK(model_of("vlmzoo info --json --zoo zoo.yaml --zoo-name llama_vision") == "llama_vision");
  CHECK(model_of("VLMZOO_ZOO=zoo.yaml vlmzoo info --json") == "internvl");
  CHECK(model_of("VLMZOO_ZOO=zoo.yaml vlmzoo info --json --config llama_vision.yaml") == "llama_vision");
  CHECK(model_of("VLMZOO_CONFIG=llama_vision.yaml vlmzoo info --json --zoo zoo.yaml") == "internvl");
  demo().refused("vlmzoo info --zoo zoo.yaml --config internvl.yaml", 2, "exclude each other");
  demo().refused("VLMZOO_ZOO=zoo.yaml VLMZOO_CONFIG=internvl.yaml vlmzoo info", 2, "exclude each other");
  demo().refused("vlmzoo info --zoo-name internvl --config internvl.yaml", 2, "--zoo FILE");
  demo().refused("vlmzoo info --zoo zoo.yaml --zoo-name lama_vision", 1, "did you mean 'llama_vision'?");
  CHECK(demo().json("vlmzoo info --json --zoo zoo.yaml --set model.precision=int8")["precision"]["vision"] == "int8");
  for (const char* verb : {"classify", "ask", "trace", "bench", "info", "explain"}) {
    CHECK(contains(demo().run(fmt::format("vlmzoo {} --help", verb)).out, "--zoo FILE"));
  }
}

TEST_CASE("explain tells tiles, padding, cut and tokens as the models' own preprocessing has them") {
  demo().reset();
  const Json document = demo().json("vlmzoo explain picture.png --zoo zoo.yaml --json --output seen.png");
  CHECK(keys(document) == std::set<std::string>{"prompt", "pictures"});
  const Json& picture = document["pictures"][0];
  CHECK(picture["width"] == 300);
  CHECK(picture["height"] == 200);
  REQUIRE(picture["models"].size() == 2);

  // 3 by 2 tiles of 56 pixels fit the ratio, so nothing is stretched; a thumbnail comes behind them.
  const Json& internvl = picture["models"][0];
  CHECK(internvl["name"] == "internvl");
  CHECK(internvl["columns"] == 3);
  CHECK(internvl["rows"] == 2);
  CHECK(internvl["overview"] == true);
  CHECK(internvl["empty_tiles"] == 0);
  CHECK(internvl["padding"] == 0.0);
  CHECK(internvl["cut_off"] == 0.0);
  CHECK(internvl["scale_x"].get<double>() == doctest::Approx(0.56).epsilon(0.01));
  CHECK(internvl["scale_y"].get<double>() == doctest::Approx(0.56).epsilon(0.01));
  REQUIRE(internvl["tiles"].size() == 7);
  const auto check_region = [](const Json& tile, int left, int top, int right, int bottom) {
    // Coordinates come through 8-bit colours: 300 pixels in 255 steps, and a line through 56 of them.
    const auto near = [](const Json& value, int expected) { return std::abs(value.get<int>() - expected) <= 1; };
    CAPTURE(tile.dump());
    CHECK(near(tile["left"], left));
    CHECK(near(tile["top"], top));
    CHECK(near(tile["right"], right));
    CHECK(near(tile["bottom"], bottom));
  };
  check_region(internvl["tiles"][0], 0, 0, 100, 100);
  check_region(internvl["tiles"][5], 200, 100, 300, 200);
  check_region(internvl["tiles"][6], 0, 0, 300, 200);
  CHECK(internvl["tiles"][6]["overview"] == true);
  CHECK(internvl["vision_tokens"] == 7 * internvl["tokens_per_tile"].get<int>());
  CHECK(internvl["prompt_tokens"]["pictures"] >= internvl["vision_tokens"]);
  CHECK(internvl["prompt_tokens"]["context_length"] == 2048);

  // On a canvas of 2 by 2 it is 112 by 74 pixels; the rest is black.
  const Json& llama = picture["models"][1];
  CHECK(llama["columns"] == 2);
  CHECK(llama["rows"] == 2);
  CHECK(llama["overview"] == false);
  CHECK(llama["padding"].get<double>() == doctest::Approx(1 - 74 / 112.0).epsilon(0.001));
  check_region(llama["tiles"][1], 150, 0, 300, 151);
  check_region(llama["tiles"][2], 0, 151, 150, 200);
  CHECK(llama["prompt_tokens"]["pictures"] == 1);
  CHECK(llama["prompt_tokens"]["total"] ==
        llama["prompt_tokens"]["template"].get<int>() + llama["prompt_tokens"]["question"].get<int>() + 1);

  const Result table =
      demo().run("vlmzoo explain picture.png --baseline internvl --candidate llama_vision.yaml --zoo zoo.yaml");
  CHECK(table.code == 0);
  for (const char* part : {"6 of 56x56 in 3x2, and an overview", "4 of 56x56 in 2x2", "34 %", "beside the prompt"}) {
    CAPTURE(part);
    CHECK(contains(table.out, part));
  }
}

TEST_CASE("explain draws the colours that the model gets, in the tiles' places") {
  const Result result = demo().run("vlmzoo explain picture.png --config llama_vision.yaml --output colours.png");
  INFO(result.err);
  REQUIRE(result.code == 0);
  const cv::Mat page = cv::imread(demo().folder / "colours.png");
  REQUIRE_FALSE(page.empty());
  const auto count = [&](const cv::Scalar& colour) {
    cv::Mat mask;
    cv::inRange(page, colour - cv::Scalar::all(1), colour + cv::Scalar::all(1), mask);
    return cv::countNonZero(mask);
  };
  // Each half once as the picture itself and once as tiles, which are five times as large here (56 to 280 pixels).
  const int blue = count({200, 40, 40}), red = count({40, 40, 200});
  const int expected = 150 * 200 + 56 * 74 * 25;
  CHECK(blue == doctest::Approx(expected).epsilon(0.05));
  CHECK(red == doctest::Approx(expected).epsilon(0.05));
}

TEST_CASE("explain holds for another pipeline, a thin picture and a model without language") {
  cv::Mat thin(400, 20, CV_8UC3, cv::Scalar(10, 200, 10));
  REQUIRE(cv::imwrite(demo().folder / "thin.png", thin));
  const Json document = demo().json(
      "vlmzoo explain thin.png --config internvl.yaml --set model.max_tiles=1 --set model.multimodal=false --json");
  const Json& model = document["pictures"][0]["models"][0];
  CHECK(model["tiles"].size() == 1);
  CHECK(model["prompt_tokens"].is_null());
  CHECK(model["scale_x"].get<double>() == doctest::Approx(56 / 20.0).epsilon(0.02));
  CHECK(model["scale_y"].get<double>() == doctest::Approx(56 / 400.0).epsilon(0.02));

  demo().refused("vlmzoo explain", 2, "no picture is named");
  demo().refused("vlmzoo explain picture.png", 2, "no model is named");
  demo().refused("vlmzoo explain picture.png --config internvl.yaml --baseline internvl.yaml", 2, "exclude each other");
  demo().refused("vlmzoo explain nowhere.png --config internvl.yaml", 1, "nowhere.png");
  demo().refused("vlmzoo explain picture.png --config internvl.yaml --output nowhere/seen.png", 1, "nowhere");
}

TEST_CASE("every command of docs/zoo.md works") {
  demo().reset();
  fs::copy(demo().folder / "picture.png", demo().folder / "picture.jpg", fs::copy_options::overwrite_existing);
  std::istringstream text(read_file(fs::path(VLMZOO_TEST_DATA).parent_path() / "docs" / "zoo.md"));
  int commands = 0;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with("vlmzoo ")) continue;
    const Result result = demo().run(line);
    CAPTURE(line);
    CAPTURE(result.err);
    CHECK(result.code == 0);
    ++commands;
  }
  CHECK(commands == 8);
}

}  // namespace vlmzoo::test
