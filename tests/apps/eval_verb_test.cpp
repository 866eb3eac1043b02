#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/csv.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/json.hpp"

#undef CHECK  // LibTorch's aborts
#include "program.hpp"

// eval and classify from outside, with a head that is named, though not trained well: what is checked is that the
// numbers are those of its predictions.
namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(VLMZOO_TEST_DATA) / "data";

HeadConfig head_for(const std::string& model_type, const std::vector<std::string>& classes, double temperature) {
  const Json json = read_json(kData / "internvl" / "release" / "config.json");
  HeadConfig config;
  config.model_type = model_type;
  config.num_features = json.at("vision_config").at("hidden_size");
  config.text_hidden_size = json.at("llm_config").at("hidden_size");
  config.classifier.hidden_dims = {16};
  config.classifier.dropout_rates = {0.0};
  config.classifier.batch_norm = false;
  config.class_names = classes;
  config.temperature = temperature;
  return config;
}

/// A head that is sure of what it says: its last weights are large.
void write_head(const fs::path& file, const HeadConfig& config) {
  Head head = fresh_head(config, /*seed=*/5);
  for (const NamedTensor& named : head.tensors()) {
    if (named.name == "classification_head.out.weight") named.tensor.mul_(200);
  }
  save_head(file, head);
}

/// A small checkpoint, pictures and a head, made once, with room for what tests write.
struct Place {
  TemporaryFolder folder;
  fs::path checkpoint = folder / "checkpoint", pictures = folder / "pictures", head = folder / "head.safetensors";

  Place() {
    const fs::path release = kData / "internvl" / "release";
    run({"init", "--config-json", (release / "config.json").string(), "--tokenizer",
         (kData / "tokenizer" / "tokenizer.json").string(), "--preprocessor",
         (release / "preprocessor_config.json").string(), "--generation", (release / "generation_config.json").string(),
         "--output", checkpoint.string()});
    run({"synth", "receipts", "--count", "140", "--size", "64", "--seed", "3", "--output", pictures.string()});
    write_head(head, head_for("internvl", {"none", "one", "several"}, 2.5));
  }

  static void run(const std::vector<std::string>& arguments) {
    const Result result = shell(words(arguments));
    INFO(result.err);
    REQUIRE(result.code == 0);
  }

  /// A table of pictures beside the drawn ones.
  fs::path table(const std::string& name, const std::string& rows) const {
    write_file(pictures / name, rows);
    return pictures / name;
  }
};

const Place& place() {
  static const Place instance;
  return instance;
}

std::vector<std::string> command(const std::string& verb, const std::vector<std::string>& more,
                                 const fs::path& head = place().head) {
  std::vector<std::string> result = {verb, "--model", place().checkpoint.string(),  "--precision", "fp32", "--threads",
                                     "1",  "--set",   "model.head=" + head.string()};
  result.insert(result.end(), more.begin(), more.end());
  return result;
}

/// With a cache of its own in `cache`; empty: --no-cache.
Result eval(const std::vector<std::string>& more, const fs::path& cache = {}, const fs::path& head = place().head) {
  std::vector<std::string> arguments = command("eval", more, head);
  if (std::find(more.begin(), more.end(), "--data") == more.end()) {
    arguments.insert(arguments.end(), {"--data", place().pictures.string()});
  }
  if (cache.empty()) arguments.push_back("--no-cache");
  return shell((cache.empty() ? "" : "XDG_CACHE_HOME=" + quote(cache.string()) + " ") + words(arguments));
}

Json eval_json(std::vector<std::string> more, const fs::path& cache = {}, int code = 0) {
  more.push_back("--json");
  const Result result = eval(more, cache);
  INFO(result.err);
  REQUIRE(result.code == code);
  return Json::parse(result.out);
}

/// Rows of predictions.csv by column.
struct Predictions {
  std::vector<app::CsvRow> rows;

  explicit Predictions(const fs::path& file) : rows(app::parse_csv(read_file(file), file.string())) {}
  std::size_t size() const { return rows.size() - 1; }
  std::string cell(std::size_t row, const std::string& column) const {
    const auto& header = rows[0].cells;
    const auto at = std::find(header.begin(), header.end(), column);
    REQUIRE(at != header.end());
    return rows[row + 1].cells.at(static_cast<std::size_t>(at - header.begin()));
  }
};

void check_refusal(const std::vector<std::string>& more, int code, const std::vector<std::string>& parts,
                   const fs::path& head = place().head) {
  const Result result = eval(more, {}, head);
  CAPTURE(result.err);
  CHECK(result.code == code);
  CHECK(result.out.empty());
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(result.err, part));
  }
}

}  // namespace

TEST_CASE("eval's numbers are those of its table of predictions, and everything lies in --output") {
  const fs::path output = place().folder / "evaluation";
  const Json json = eval_json({"--split", "train", "--output", output.string()});
  CHECK(json["n"] == 98);
  CHECK(json["errors"] == 0);
  CHECK(json["split"] == "train");
  CHECK(json["classes"] == Json({"none", "one", "several"}));
  CHECK(json["accuracy_ci"][0] <= json["accuracy"]);
  CHECK(json["accuracy"] <= json["accuracy_ci"][1]);
  CHECK(json["peak_memory_bytes"] > json["weight_bytes"]);

  const Predictions predictions(output / "predictions.csv");
  REQUIRE(predictions.size() == 98);
  int right = 0;
  double nll = 0;
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    double sum = 0;
    for (const char* name : {"p_none", "p_one", "p_several"}) sum += std::stod(predictions.cell(i, name));
    CHECK(sum == doctest::Approx(1).epsilon(1e-5));
    const bool equal = predictions.cell(i, "label") == predictions.cell(i, "prediction");
    CHECK(predictions.cell(i, "correct") == (equal ? "1" : "0"));
    right += equal ? 1 : 0;
    nll -= std::log(std::stod(predictions.cell(i, "p_" + predictions.cell(i, "label")))) / 98;
    CHECK(std::stod(predictions.cell(i, "latency_ms")) > 0);
  }
  CHECK(json["accuracy"].get<double>() == doctest::Approx(right / 98.0));
  CHECK(json["nll"].get<double>() == doctest::Approx(nll).epsilon(1e-4));
  CHECK(Json::parse(read_file(output / "evaluation.json")) == json);
  CHECK(contains(read_file(output / "report.html"), "<svg"));
  // The configuration beside the result makes the same run.
  const Result again = shell(words({"eval", "--config", (output / "config.yaml").string(), "--threads", "1", "--data",
                                    place().pictures.string(), "--split", "train", "--no-cache", "--json"}));
  INFO(again.err);
  REQUIRE(again.code == 0);
  CHECK(Json::parse(again.out)["nll"] == json["nll"]);
}

TEST_CASE("eval fits the temperature on the validation split, else takes the head's, and says which") {
  const Json test = eval_json({});  // the test split
  CHECK(test["temperature_source"] == "validation");
  CHECK(test["calibration_items"].get<int>() >= 18);
  CHECK(test["temperature"].get<double>() > 1);
  CHECK(test["nll"] < test["nll_uncalibrated"]);
  const Json validation = eval_json({"--split", "val"});
  CHECK(validation["temperature_source"] == "head");
  CHECK(validation["temperature"] == 2.5);

  const fs::path unfitted = place().folder / "unfitted.safetensors";
  write_head(unfitted, head_for("internvl", {"none", "one", "several"}, 1));
  const Result none = eval({"--split", "all", "--json"}, {}, unfitted);
  REQUIRE(none.code == 0);
  CHECK(Json::parse(none.out)["temperature_source"] == "none");
  CHECK(Json::parse(none.out)["temperature"] == 1);
  CHECK(contains(eval({"--split", "all"}, {}, unfitted).out, "not fitted"));
}

TEST_CASE("classify and eval say the same probabilities, and classify's unsure follows --unsure-below") {
  const fs::path output = place().folder / "as_classify";
  REQUIRE(eval({"--split", "val", "--limit", "5", "--output", output.string()}).code == 0);
  const Predictions predictions(output / "predictions.csv");
  std::vector<std::string> arguments = command("classify", {"--json", "--unsure-below", "0.5"});
  for (std::size_t i = 0; i < predictions.size(); ++i) arguments.push_back(predictions.cell(i, "image"));
  const Result classified = shell(words(arguments));
  REQUIRE(classified.code == 0);
  const Json results = Json::parse(classified.out)["results"];
  REQUIRE(results.size() == predictions.size());
  std::vector<double> highest;
  for (std::size_t i = 0; i < results.size(); ++i) {
    CHECK(results[i]["label"] == predictions.cell(i, "prediction"));
    CHECK(results[i]["probabilities"]["one"].get<double>() ==
          doctest::Approx(std::stod(predictions.cell(i, "p_one"))).epsilon(1e-4));
    CHECK(results[i]["unsure"].get<bool>() == (results[i]["probability"].get<double>() < 0.5));
    highest.push_back(results[i]["probability"]);
  }
  arguments = command("classify", {"--unsure-below", "1", (place().pictures / "images" / "0000000.jpg").string()});
  CHECK(contains(shell(words(arguments)).out, "unsure"));
  arguments[arguments.size() - 2] = "0";
  CHECK_FALSE(contains(shell(words(arguments)).out, "unsure"));
  arguments[arguments.size() - 2] = "1.5";
  CHECK(shell(words(arguments)).code == 2);
}

TEST_CASE("a second run takes everything from the cache, and one more picture computes one") {
  const fs::path cache = place().folder / "cache";
  const Json first = eval_json({"--split", "train", "--limit", "20"}, cache);
  CHECK(first["cached"] == 0);
  CHECK(first["measured_earlier"] == false);
  const Json second = eval_json({"--split", "train", "--limit", "20"}, cache);
  CHECK(second["cached"] == 20);
  CHECK(second["measured_earlier"] == true);
  for (const char* name :
       {"accuracy", "nll", "ece", "temperature", "latency_ms", "peak_memory_bytes", "load_seconds"}) {
    CAPTURE(name);
    CHECK(second[name] == first[name]);
  }
  const Json more = eval_json({"--split", "train", "--limit", "21"}, cache);
  CHECK(more["n"] == 21);
  CHECK(more["cached"] == 20);
  CHECK(more["measured_earlier"] == false);
  // What changes the model's numbers changes the key.
  CHECK(eval_json({"--split", "train", "--limit", "20", "--set", "model.max_tiles=1"}, cache)["cached"] == 0);
  std::vector<std::string> bf16 =
      command("eval", {"--data", place().pictures.string(), "--split", "train", "--limit", "20", "--json"});
  std::replace(bf16.begin(), bf16.end(), std::string("fp32"), std::string("bf16"));
  CHECK(Json::parse(shell("XDG_CACHE_HOME=" + quote(cache.string()) + " " + words(bf16)).out)["cached"] == 0);
  CHECK(eval_json({"--split", "train", "--limit", "20", "--answers"}, cache)["cached"] == 0);
  const fs::path other = place().folder / "other.safetensors";
  write_head(other, head_for("internvl", {"none", "one", "several"}, 3));
  const Result with_other = eval({"--split", "train", "--limit", "20", "--json"}, cache, other);
  CHECK(Json::parse(with_other.out)["cached"] == 0);
  // A changed picture is another picture, by its content.
  const fs::path copy = place().folder / "copy";
  fs::copy(place().pictures, copy, fs::copy_options::recursive);
  CHECK(eval_json({"--split", "train", "--limit", "20", "--data", copy.string()}, cache)["cached"] == 20);

  const fs::path untouched = place().folder / "untouched";
  shell("XDG_CACHE_HOME=" + quote(untouched.string()) + " " +
        words(command("eval", {"--data", place().pictures.string(), "--limit", "2", "--no-cache"})));
  CHECK_FALSE(fs::exists(untouched));
}

TEST_CASE("a damaged cache costs time, not truth") {
  const fs::path cache = place().folder / "damaged";
  const Json first = eval_json({"--limit", "10"}, cache);
  for (const auto& entry : fs::recursive_directory_iterator(cache)) {
    if (entry.is_regular_file()) fs::resize_file(entry.path(), entry.file_size() / 4);
  }
  const Json second = eval_json({"--limit", "10"}, cache);
  CHECK(second["cached"] < 10);
  CHECK(second["nll"] == first["nll"]);
  CHECK(eval_json({"--limit", "10"}, cache)["cached"] == 10);
}

TEST_CASE("eval asks, keeps the answers beside the classes, and judges them") {
  const fs::path output = place().folder / "answers";
  const Json json = eval_json({"--split", "train", "--limit", "6", "--answers", "--output", output.string(), "--set",
                               "generation.max_new_tokens=4"});
  CHECK(json["answers"]["n"] == 6);
  CHECK(json["answers"]["expected_answers"] == 6);
  CHECK(json["answers"]["accuracy_ci_exact"][1] > 0);
  const Predictions predictions(output / "predictions.csv");
  CHECK(predictions.cell(0, "question") == "How many receipts are there?");
  CHECK_FALSE(predictions.cell(0, "answer").empty());
  CHECK(std::stod(predictions.cell(0, "answer_ms")) >= std::stod(predictions.cell(0, "latency_ms")));
  // The classes are those of a run that doesn't ask.
  const Json plain = eval_json({"--split", "train", "--limit", "6"});
  CHECK(plain["nll_uncalibrated"].get<double>() == doctest::Approx(json["nll_uncalibrated"].get<double>()));
  CHECK_FALSE(plain.contains("answers"));
  // It asks what it is told to.
  const fs::path told = place().folder / "told";
  REQUIRE(eval({"--limit", "1", "--answers", "-p", "What is it?", "--output", told.string()}).code == 0);
  CHECK(Predictions(told / "predictions.csv").cell(0, "question") == "What is it?");
  check_refusal({"--prompt", "x"}, 2, {"--answers"});
  check_refusal({"--answers", "--set", "model.multimodal=false"}, 2, {"model.multimodal"});
}

TEST_CASE("a picture that can't be read is told, counted, and fails the run unless bad ones may be skipped") {
  const std::string header = "image,label\nimages/0000000.jpg,several\nimages/0000001.jpg,one\n";
  write_file(place().pictures / "torn.jpg", read_file(place().pictures / "images" / "0000002.jpg").substr(0, 300));
  const fs::path table = place().table("torn.csv", header + "torn.jpg,none\n");
  const fs::path output = place().folder / "torn";
  const Json json = eval_json({"--data", table.string(), "--output", output.string()}, {}, /*code=*/1);
  CHECK(json["n"] == 2);
  CHECK(json["errors"] == 1);
  const Predictions predictions(output / "predictions.csv");
  REQUIRE(predictions.size() == 3);
  CHECK(contains(predictions.cell(2, "error"), "torn.jpg"));
  CHECK(predictions.cell(2, "prediction").empty());
  CHECK(contains(read_file(output / "report.html"), "torn.jpg"));
  const Result skipped = eval({"--data", table.string(), "--skip-bad", "--json"});
  CHECK(skipped.code == 0);
  CHECK(contains(skipped.err, "warning"));
  CHECK(contains(skipped.err, "torn.jpg"));
  CHECK(Json::parse(skipped.out)["errors"] == 1);
  const fs::path all_torn = place().table("all_torn.csv", "image,label\ntorn.jpg,none\ntorn.jpg,one\n");
  CHECK(eval({"--data", all_torn.string()}).code == 1);
}

TEST_CASE("one picture is enough for an honest interval") {
  const Json json = eval_json({"--limit", "1"});
  CHECK(json["n"] == 1);
  CHECK(json["temperature_source"] == "head");  // one validation picture fits nothing
  CHECK(json["accuracy_ci_exact"][1].get<double>() - json["accuracy_ci_exact"][0].get<double>() > 0.9);
}

TEST_CASE("data that doesn't fit the head, and heads that don't fit the model, are errors that name both") {
  const auto csv = [](const char* name, const std::string& rows) {
    return place().table(name, "image,label,split\n" + rows).string();
  };
  const std::string one = "images/0000001.jpg,", two = "images/0000002.jpg,";
  check_refusal({"--data", csv("outside.csv", one + "one,test\n" + two + "many,test\n")}, 1,
                {"outside.csv:3", "many", "none, one, several"});
  check_refusal({"--data", csv("empty.csv", one + "one,train\n" + two + "none,train\n")}, 1,
                {"split test is empty", "train: 2"});
  check_refusal({"--data", csv("single.csv", one + "one,test\n" + two + "one,test\n")}, 1, {"two classes"});
  check_refusal({"--data", (place().folder / "nowhere").string()}, 1, {"does not exist"});

  const fs::path llama = place().folder / "llama.safetensors";
  write_head(llama, head_for("llama-vision", {"none", "one", "several"}, 1));
  check_refusal({}, 1, {"llama-vision", "internvl", llama.string()}, llama);
  const fs::path numbered = place().folder / "numbered.safetensors";
  write_head(numbered, head_for("internvl", {"0", "1", "2", "3"}, 1));
  check_refusal({}, 1, {"3 classes"}, numbered);
}

TEST_CASE("eval refuses what it can't mean before it computes anything") {
  const fs::path occupied = place().folder / "occupied";
  fs::create_directory(occupied);
  write_file(occupied / "something.txt", "mine");
  check_refusal({"--output", occupied.string()}, 2, {"not empty"});
  check_refusal({"--output", occupied.string(), "--force"}, 2, {"something.txt"});
  CHECK(read_file(occupied / "something.txt") == "mine");
  check_refusal({"--split", "tests"}, 2, {"--split"});
  check_refusal({"--limit", "-1"}, 2, {"--limit"});
  check_refusal({"--force"}, 2, {"--output"});
  const fs::path output = place().folder / "twice";
  REQUIRE(eval({"--limit", "3", "--output", output.string()}).code == 0);
  CHECK(eval({"--limit", "3", "--output", output.string()}).code == 2);
  CHECK(eval({"--limit", "4", "--output", output.string(), "--force"}).code == 0);
  CHECK(Predictions(output / "predictions.csv").size() == 4);
}

TEST_CASE("Ctrl-C ends eval with what there is") {
  std::string rows = "image,label\n";
  const fs::path folder = place().folder / "many";
  fs::create_directory(folder);
  constexpr int kMany = 20'000;
  for (int i = 0; i < kMany; ++i) {
    fs::create_symlink(place().pictures / "images" / "0000001.jpg", folder / fmt::format("{}.jpg", i));
    rows += fmt::format("{}.jpg,{}\n", i, i % 2 == 0 ? "one" : "none");
  }
  write_file(folder / "labels.csv", rows);
  const Result result = shell("timeout --preserve-status -s INT 2 " +
                              words(command("eval", {"--data", folder.string(), "--no-cache", "--json"})));
  INFO(result.err);
  CHECK(result.code == 130);
  if (!result.out.empty()) {  // else it came before the first picture
    const Json json = Json::parse(result.out);
    CHECK(json["interrupted"] == true);
    CHECK(json["n"] < kMany);
  }
}

TEST_CASE("the commands of docs/evaluation.md run as they stand there") {
  // In a folder where the names mean the small checkpoint and the drawn pictures.
  const fs::path folder = place().folder / "docs";
  fs::create_directories(folder / "configs" / "demo");
  fs::create_directory_symlink(place().pictures, folder / "pictures");
  write_file(folder / "configs" / "demo" / "internvl.yaml",
             fmt::format("model: {{pretrained_path: {}, head: {}, precision: fp32}}\n", place().checkpoint.string(),
                         place().head.string()));
  const std::string text = read_file(fs::path(VLMZOO_TEST_DATA).parent_path() / "docs" / "evaluation.md");
  int commands = 0;
  for (std::size_t at = text.find("\nvlmzoo "); at != std::string::npos; at = text.find("\nvlmzoo ", at + 1)) {
    const std::size_t begin = at + std::string("\nvlmzoo").size();
    const std::string arguments = text.substr(begin, text.find('\n', begin) - begin);
    const Result result = shell(fmt::format("cd {} && OMP_NUM_THREADS=1 XDG_CACHE_HOME=$PWD/cache {}{}",
                                            quote(folder.string()), quote(VLMZOO_PROGRAM), arguments));
    CAPTURE(arguments);
    CAPTURE(result.err);
    CHECK(result.code == 0);
    ++commands;
  }
  CHECK(commands == 2);
  CHECK(fs::exists(folder / "evaluation" / "report.html"));
}

TEST_CASE("the temperature of a head file has to be a positive number") {
  const fs::path file = place().folder / "temperature.safetensors";
  CHECK(read_head_config(place().head).temperature == 2.5);
  HeadConfig config = head_for("internvl", {"a", "b"}, 0.1);
  save_head(file, fresh_head(config, 1));
  CHECK(read_head_config(file).temperature == 0.1);  // to the last bit
  config.temperature = 0;
  CHECK(code_of([&] { fresh_head(config, 1); }) == ErrorCode::kConfig);
  const std::string good = read_file(place().head);
  for (const char* bad : {"-2.", "nan", "2,5"}) {
    std::string text = good;
    const std::size_t at = text.find("\"2.5\"");
    REQUIRE(at != std::string::npos);
    write_file(file, text.replace(at + 1, 3, bad));
    CAPTURE(bad);
    CHECK(code_of([&] { read_head_config(file); }) == ErrorCode::kCorrupt);
  }
}

}  // namespace vlmzoo::test
