#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "program.hpp"
#include "support.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

// The built program, run as a user runs it, on checkpoints that it makes itself.
namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(VLMZOO_TEST_DATA) / "data";

/// The command fails with this code and one message that holds all `parts`.
void check_refusal(const std::vector<std::string>& arguments, int code, const std::vector<std::string>& parts) {
  const Result result = vlmzoo(arguments);
  CAPTURE(words(arguments));
  CAPTURE(result.err);
  CHECK(result.code == code);
  CHECK(result.out.empty());
  CHECK(contains(result.err, "error: "));
  CHECK(result.err.size() < 4000);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(result.err, part));
  }
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

std::vector<std::string> init_arguments(const fs::path& output, const fs::path& config) {
  const fs::path release = kData / "internvl" / "release";
  return {"init",
          "--config-json",
          config.string(),
          "--tokenizer",
          (kData / "tokenizer" / "tokenizer.json").string(),
          "--preprocessor",
          (release / "preprocessor_config.json").string(),
          "--generation",
          (release / "generation_config.json").string(),
          "--output",
          output.string()};
}

std::vector<std::string> init_arguments(const fs::path& output) {
  return init_arguments(output, kData / "internvl" / "release" / "config.json");
}

/// A small checkpoint, made once, with room around it for what tests write.
struct Bench {
  TemporaryFolder folder;
  fs::path checkpoint = folder / "checkpoint";
  std::string picture = (kData / "images" / "square.png").string();

  Bench() {
    const Result result = vlmzoo(init_arguments(checkpoint));
    INFO(result.err);
    REQUIRE(result.code == 0);
  }

  /// A copy of the checkpoint that a test may break.
  fs::path copy(const std::string& name) const {
    fs::copy(checkpoint, folder / name);
    return folder / name;
  }
};

const Bench& bench() {
  static const Bench instance;
  return instance;
}

std::vector<std::string> with_model(std::vector<std::string> arguments, const fs::path& checkpoint) {
  return joined(std::move(arguments), {"--model", checkpoint.string(), "--precision", "fp32"});
}

std::vector<std::string> with_model(std::vector<std::string> arguments) {
  return with_model(std::move(arguments), bench().checkpoint);
}

void edit_json(const fs::path& file, const std::string& pointer, const Json& value) {
  Json json = read_json(file);
  json[Json::json_pointer(pointer)] = value;
  write_file(file, json.dump());
}

/// Rewrites the header of a safetensors file, with its length, and keeps the data.
void edit_header(const fs::path& file, const std::function<void(Json&)>& edit) {
  const std::string content = read_file(file);
  std::uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof(length));
  Json header = Json::parse(content.substr(sizeof(length), length));
  edit(header);
  const std::string text = header.dump();
  const std::uint64_t changed = text.size();
  std::string result(sizeof(changed), '\0');
  std::memcpy(result.data(), &changed, sizeof(changed));
  write_file(file, result + text + content.substr(sizeof(length) + length));
}

std::set<std::string> keys(const Json& object) {
  std::set<std::string> result;
  for (const auto& [key, value] : object.items()) result.insert(key);
  return result;
}

/// A picture file of this content, in the tests' folder.
std::string picture_file(const std::string& name, const std::string& content) {
  const fs::path path = bench().folder / name;
  write_file(path, content);
  return path.string();
}

std::string first_half_of(const std::string& name) {
  const std::string content = read_file(kData / "images" / name);
  return content.substr(0, content.size() / 2);
}

/// Signature and header of a PNG of 60,000 × 60,000 pixels.
std::string huge_png() {
  return {"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0\x0f\xb0\xe2\x15", 33};
}

}  // namespace

TEST_CASE("help and version go to stdout and need neither plugins nor a model") {
  const Result help = shell("export VLMZOO_PLUGIN_PATH=/does/not/exist; " + words({"--help"}));
  CHECK(help.code == 0);
  CHECK(help.err.empty());
  for (const char* verb : {"plugins", "info", "classify", "ask", "init", "synth", "trace", "bench"}) {
    CAPTURE(verb);
    CHECK(contains(help.out, verb));
    const Result own = shell("export VLMZOO_PLUGIN_PATH=/does/not/exist; " + words({verb, "--help"}));
    CHECK(own.code == 0);
    CHECK(own.err.empty());
    CHECK(contains(own.out, fmt::format("Usage: vlmzoo {}", verb)));
    CHECK(contains(own.out, "Example:\n  vlmzoo "));
  }
  const Result version = vlmzoo({"--version"});
  CHECK(version.code == 0);
  for (const char* part : {"vlmzoo ", "LibTorch ", "compiler ", "processor "}) CHECK(contains(version.out, part));
}

TEST_CASE("a wrong command line ends with code 2 and a hint") {
  check_refusal({}, 2, {"no verb", "--help"});
  check_refusal({"clasify"}, 2, {"unknown verb 'clasify'; did you mean 'classify'?"});
  check_refusal({"--verison"}, 2, {"unknown verb '--verison'"});
  check_refusal({"ask", "--promt", "x"}, 2, {"unknown option '--promt'; did you mean '--prompt'?"});
  check_refusal({"ask", "cat.png"}, 2, {"unexpected argument 'cat.png'"});
  check_refusal(with_model({"ask"}), 2, {"--prompt is missing"});
  check_refusal(with_model({"ask", "-p", "\xff\xfe"}), 2, {"UTF-8"});
  check_refusal(with_model({"ask", "-p", "x", "--quiet", "--verbose"}), 2, {"exclude each other"});
  check_refusal(with_model({"ask", "-p", "x", "--threads", "0"}), 2, {"--threads is 0"});
  check_refusal(with_model({"ask", "-p", "x", "--max-new-tokens", "-1"}), 2, {"max_new_tokens"});
  check_refusal(with_model({"ask", "-p", "x", "--top-p", "nan"}), 2, {"top_p"});
  check_refusal(with_model({"classify"}), 2, {"no picture"});
  check_refusal({"ask", "-p", "x"}, 2, {"no model is named"});
}

TEST_CASE("a place that isn't there is named, with code 1") {
  check_refusal({"info", "--model", "/does/not/exist"}, 1, {"Model path does not exist: /does/not/exist"});
  fs::create_directory(bench().folder / "empty");
  check_refusal({"info", "--model", (bench().folder / "empty").string()}, 1, {"empty", "config.json"});
  check_refusal({"info", "--config", "/does/not/exist.yaml"}, 1, {"/does/not/exist.yaml"});
  check_refusal({"plugins", "--plugin-dir", "/does/not/exist"}, 1, {"/does/not/exist"});
  check_refusal(with_model({"classify", "/does/not/exist.png"}), 1, {"/does/not/exist.png"});
  check_refusal(with_model({"ask", "-p", "x", "--image", "/does/not/exist.png"}), 1, {"/does/not/exist.png"});
  check_refusal(with_model({"classify", (bench().folder / "empty").string()}), 1, {"no pictures"});
}

TEST_CASE("an unknown model type is told with those that there are") {
  const std::vector<std::string> parts = {"Unsupported model type: nope", "available: ", "internvl"};
  check_refusal(with_model({"info", "--model-type", "nope"}), 1, parts);
  check_refusal(with_model({"ask", "-p", "x", "--set", "model.model_type=nope"}), 1, parts);
}

TEST_CASE("a wrong configuration ends with code 2 and names its place") {
  const fs::path config = bench().folder / "wrong.yaml";
  write_file(config, "model:\n  num_classes: many\n");
  check_refusal({"info", "--config", config.string()}, 2, {"wrong.yaml:2", "num_classes"});
  write_file(config, "model:\n  num_clases: 3\n");
  check_refusal({"info", "--config", config.string()}, 2, {"wrong.yaml:2", "num_clases", "num_classes"});
  check_refusal(with_model({"info", "--set", "model.num_classes=many"}), 2, {"num_classes"});
  check_refusal({"info", "--model", bench().checkpoint.string(), "--precision", "fp3"}, 2, {"fp3", "fp32"});
  check_refusal(with_model({"ask", "-p", "x", "--set", "model.multimodal=false"}), 2, {"multimodal"});
}

TEST_CASE("a broken safetensors file is refused with its name") {
  const auto refused = [](const char* name, const std::function<void(const fs::path&)>& damage,
                          const std::vector<std::string>& parts) {
    CAPTURE(name);
    const fs::path folder = bench().copy(name);
    damage(folder / "model.safetensors");
    check_refusal(with_model({"info"}, folder), 1, joined({"model.safetensors"}, parts));
  };
  refused("truncated", [](const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); }, {});
  refused("no-header", [](const fs::path& file) { fs::resize_file(file, 5); }, {});
  refused("oversized-header",
          [](const fs::path& file) { write_file(file, std::string(7, '\xff') + '\x7f' + read_file(file).substr(8)); },
          {});
  refused("overlapping",
          [](const fs::path& file) {
            edit_header(file, [](Json& header) {
              std::map<Json, std::string> names;  // by shape
              for (const auto& [name, entry] : header.items()) {
                if (!entry.contains("shape")) continue;
                const auto [other, first] = names.emplace(entry["shape"], name);
                if (first) continue;
                header[name]["data_offsets"] = header[other->second]["data_offsets"];
                return;
              }
              FAIL("two tensors of one shape are needed");
            });
          },
          {});
}

TEST_CASE("missing, unexpected and misshaped tensors are counted and named in one message") {
  const fs::path more = bench().copy("more-layers");
  edit_json(more / "config.json", "/llm_config/num_hidden_layers", 30);
  check_refusal(with_model({"info"}, more), 1, {"missing", "and ", " more"});
  const fs::path fewer = bench().copy("fewer-layers");
  edit_json(fewer / "config.json", "/llm_config/num_hidden_layers", 1);
  check_refusal(with_model({"info"}, fewer), 1, {"unexpected"});
  const fs::path wider = bench().copy("wider");
  edit_json(wider / "config.json", "/llm_config/intermediate_size", 168);
  check_refusal(with_model({"info"}, wider), 1, {"expected [", "got ["});
}

TEST_CASE("absurd sizes in config.json are refused before anything is allocated") {
  for (const auto& [key, value] : std::map<std::string, Json>{{"/llm_config/hidden_size", 1'000'000'000'000},
                                                              {"/llm_config/num_hidden_layers", -1},
                                                              {"/llm_config/num_attention_heads", 0},
                                                              {"/vision_config/patch_size", 0},
                                                              {"/vision_config/hidden_size", "wide"}}) {
    CAPTURE(key);
    const fs::path folder = bench().folder / "absurd";
    fs::remove_all(folder);
    fs::copy(bench().checkpoint, folder);
    edit_json(folder / "config.json", key, value);
    check_refusal(with_model({"info"}, folder), 2, {"config.json", key.substr(key.rfind('/') + 1)});
  }
}

TEST_CASE("a tokenizer that doesn't belong to the model is refused") {
  const fs::path folder = bench().copy("no-image-token");
  Json tokenizer = read_json(folder / "tokenizer.json");
  for (Json& token : tokenizer["added_tokens"]) {
    if (token["content"] == "<IMG_CONTEXT>") token["content"] = "<other>";
  }
  write_file(folder / "tokenizer.json", tokenizer.dump());
  check_refusal(with_model({"ask", "-p", "x"}, folder), 1, {"<IMG_CONTEXT>"});

  fs::copy(bench().checkpoint / "config.json", bench().folder / "small.json");
  edit_json(bench().folder / "small.json", "/llm_config/vocab_size", 606);
  check_refusal(init_arguments(bench().folder / "small", bench().folder / "small.json"), 1,
                {"the tokenizer in", "606"});
  CHECK_FALSE(fs::exists(bench().folder / "small"));
}

TEST_CASE("a prompt that doesn't fit the context is refused, not cut") {
  std::string text;
  for (int i = 0; i < 2500; ++i) text += "word ";
  check_refusal(with_model({"ask", "-p", text}), 2, {"context", "2048"});
  check_refusal(with_model({"ask", "-p", "x", "--max-new-tokens", "2047"}), 2, {"context", "2048"});
}

TEST_CASE("a picture that can't be read is told and the others are classified") {
  const std::vector<std::string> broken = {picture_file("text.png", "this is no picture"),
                                           picture_file("empty.png", ""), picture_file("huge.png", huge_png()),
                                           picture_file("cut.png", first_half_of("square.png")),
                                           picture_file("cut.jpg", first_half_of("landscape.jpg"))};
  for (const std::string& file : broken) {
    check_refusal(with_model({"ask", "-p", "x", "--image", file}), 1, {file});
  }
  const Result result = vlmzoo(joined(with_model({"classify", "--json", bench().picture}), broken));
  CHECK(result.code == 1);
  for (const std::string& file : broken) CHECK(contains(result.err, "error: " + file));
  const Json document = Json::parse(result.out);
  REQUIRE(document["results"].size() == 1);
  CHECK(document["results"][0]["image"] == bench().picture);
}

TEST_CASE("an output folder that doesn't exist is an error before the work begins") {
  check_refusal(with_model({"classify", bench().picture, "--output", "/does/not/exist/a.json"}), 1,
                {"/does/not/exist"});
  check_refusal(with_model({"trace", "-p", "x", "--output", "/does/not/exist/a.safetensors"}), 1, {"/does/not/exist"});
  check_refusal(init_arguments("/does/not/exist/a"), 1, {"folder does not exist: /does/not/exist"});
}

TEST_CASE("a file that can't be written whole leaves nothing behind") {
  const fs::path folder = bench().folder / "full";
  fs::create_directory(folder);
  const auto limited = [](const std::vector<std::string>& arguments) {
    return shell("ulimit -f 8; " + words(arguments));
  };
  const Result init = limited(init_arguments(folder / "checkpoint"));
  CHECK(init.code == 1);
  CHECK(contains(init.err, "error: "));
  const Result trace = limited(with_model({"trace", "-p", "x", "--image", bench().picture, "--max-new-tokens", "2",
                                           "--output", (folder / "trace.safetensors").string()}));
  CHECK(trace.code == 1);
  CHECK(contains(trace.err, "trace.safetensors"));
  CHECK(fs::is_empty(folder));
}

TEST_CASE("a closed standard output is a write error, not a crash") {
  const TemporaryFolder folder;
  const std::string code = quote((folder / "code").string());
  const Result result = shell(fmt::format("( sleep 0.3; {}; echo $? > {} ) | true", words({"--help"}), code));
  // The pipe's reader ends at once, its writer does not: wait for it.
  for (int i = 0; i < 100 && !fs::exists(folder / "code"); ++i) shell("sleep 0.1");
  CHECK(read_file(folder / "code") == "1\n");
  CHECK(contains(result.err, "cannot write to standard output"));
}

TEST_CASE("plugins are listed, the refused ones with their reason") {
  const TemporaryFolder folder;
  write_file(folder / "broken.so", "no library");
  const Result result = vlmzoo({"plugins", "--json", "--plugin-dir", folder.path().string()});
  CHECK(result.code == 0);
  const Json document = Json::parse(result.out);
  CHECK(keys(document) == std::set<std::string>{"plugins", "refused"});
  const Json& plugins = document["plugins"];
  const auto internvl =
      std::find_if(plugins.begin(), plugins.end(), [](const Json& p) { return p["name"] == "internvl"; });
  REQUIRE(internvl != plugins.end());
  CHECK(keys(*internvl) == std::set<std::string>{"name", "version", "model_types", "file"});
  CHECK((*internvl)["model_types"][0] == "internvl");
  REQUIRE(document["refused"].size() == 1);
  CHECK(contains(document["refused"][0]["file"].get<std::string>(), "broken.so"));
  CHECK_FALSE(document["refused"][0]["reason"].get<std::string>().empty());

  const Result table = vlmzoo({"plugins", "--plugin-dir", folder.path().string()});
  CHECK(contains(table.out, "internvl_chat"));
  CHECK(contains(table.out, "broken.so"));
}

TEST_CASE("info counts parameters by role and tells which precision fits") {
  const Result result = vlmzoo({"info", "--json", "--checksums", "--model", bench().checkpoint.string()});
  INFO(result.err);
  REQUIRE(result.code == 0);
  const Json document = Json::parse(result.out);
  CHECK(document["model_type"] == "internvl");
  CHECK(document["context_length"] == 2048);
  const Json& counts = document["parameters"];
  CHECK(counts["total"] ==
        counts["vision"].get<int>() + counts["connector"].get<int>() + counts["language"].get<int>());
  // Every parameter is two bytes in the file; the rest is its header.
  const auto size = fs::file_size(bench().checkpoint / "model.safetensors");
  CHECK(size > counts["total"].get<std::uintmax_t>() * 2);
  CHECK(size < counts["total"].get<std::uintmax_t>() * 2 + 100'000);
  std::set<std::string> precisions;
  for (const Json& row : document["memory"]) {
    precisions.insert(row["precision"].get<std::string>());
    if (row.contains("bytes")) CHECK(row["fits"] == (row["bytes"] <= document["available_memory_bytes"]));
  }
  CHECK(precisions == std::set<std::string>{"configured", "auto", "fp32", "bf16", "fp16", "int8"});
  for (const Json& file : document["files"]) CHECK(file["sha256"] == sha256_of_file(file["file"].get<std::string>()));
  const Result mixed =
      vlmzoo({"info", "--json", "--model", bench().checkpoint.string(), "--set", "model.use_8bit=true"});
  INFO(mixed.err);
  REQUIRE(mixed.code == 0);
  const Json rows = Json::parse(mixed.out)["memory"];
  const auto row = [&](const std::string& name) {
    return *std::ranges::find_if(rows, [&](const Json& entry) { return entry["precision"] == name; });
  };
  CHECK(row("configured")["roles"]["language"] == "int8");
  CHECK(row("configured")["roles"]["vision"] == row("auto")["roles"]["vision"]);
  CHECK(row("configured")["bytes"] < row("auto")["bytes"]);
  const Result table = vlmzoo({"info", "--model", bench().checkpoint.string()});
  CHECK(table.code == 0);
  CHECK(contains(table.out, "model.safetensors"));
}

TEST_CASE("classify gives class and probabilities in the agreed JSON, and says that the head is untrained") {
  const fs::path folder = bench().folder / "pictures";
  fs::create_directory(folder);
  fs::copy(bench().picture, folder / "b.PNG");
  fs::copy(bench().picture, folder / "a.png");
  write_file(folder / "notes.txt", "no picture");
  const fs::path output = bench().folder / "result.json";
  const Result result =
      vlmzoo(with_model({"classify", folder.string(), "--image", bench().picture, "--json", "--output", output.string(),
                         "--set", "model.id2label={0: none, 1: one, 2: many}"}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  CHECK(contains(result.err, "untrained"));
  CHECK(read_file(output) == result.out);
  CHECK(contains(read_file(bench().folder / "result.config.yaml"), "pretrained_path"));
  const Json document = Json::parse(result.out);
  CHECK(keys(document) == std::set<std::string>{"model", "results"});
  REQUIRE(document["results"].size() == 3);
  CHECK(document["results"][0]["sample_id"] == "a.png");
  CHECK(document["results"][1]["sample_id"] == "b.PNG");
  for (const Json& row : document["results"]) {
    CHECK(keys(row) == std::set<std::string>{"sample_id", "image", "label", "class_id", "probability", "probabilities",
                                             "unsure", "latency_ms"});
    CHECK(keys(row["probabilities"]) == std::set<std::string>{"none", "one", "many"});
    double sum = 0;
    for (const auto& [name, probability] : row["probabilities"].items()) sum += probability.get<double>();
    CHECK(sum == doctest::Approx(1.0).epsilon(1e-5));  // fp32
    CHECK(row["probabilities"][row["label"].get<std::string>()] == row["probability"]);
    CHECK(row["probabilities"] == document["results"][0]["probabilities"]);  // the same picture each time
  }
}

TEST_CASE("classify does without the tokenizer and the language model") {
  const fs::path folder = bench().copy("vision-only");
  fs::remove(folder / "tokenizer.json");
  const Result result = vlmzoo(with_model({"classify", bench().picture}, folder));
  INFO(result.err);
  CHECK(result.code == 0);
  CHECK(contains(result.out, "square.png"));
  check_refusal(with_model({"ask", "-p", "x"}, folder), 1, {"tokenizer.json"});
}

TEST_CASE("ask streams the text that its JSON holds") {
  const std::vector<std::string> arguments =
      with_model({"ask", "-p", "How many?", "--image", bench().picture, "--max-tokens", "12", "--seed", "5"});
  const Result json = vlmzoo(joined(arguments, {"--json"}));
  INFO(json.err);
  REQUIRE(json.code == 0);
  const Json document = Json::parse(json.out);
  CHECK(keys(document) == std::set<std::string>{"model", "text", "ids", "finish_reason", "times"});
  CHECK(document["ids"].size() <= 12);
  CHECK((document["ids"].size() < 12 || document["finish_reason"] == "length"));
  const Result text = vlmzoo(arguments);
  CHECK(text.code == 0);
  CHECK(text.out == document["text"].get<std::string>() + "\n");

  const Result greedy = vlmzoo(joined(arguments, {"--temperature", "0", "--json"}));
  const Result again = vlmzoo(joined(arguments, {"--temperature", "0", "--json", "--threads", "1"}));
  CHECK(Json::parse(greedy.out)["ids"] == Json::parse(again.out)["ids"]);
}

TEST_CASE("Ctrl-C ends an answer with what there is, and code 130") {
  const TemporaryFolder folder;
  const std::string out = quote((folder / "out").string());
  const std::string ask =
      words(with_model({"ask", "-p", "x", "--temperature", "0", "--max-new-tokens", "1900", "--threads", "1"}));
  const Result result =
      shell(fmt::format("{} > {} & pid=$!; for i in $(seq 500); do if [ -s {} ]; then break; fi; sleep 0.01; done; "
                        "kill -INT $pid; wait $pid",
                        ask, out, out));
  CHECK(result.code == 130);
  CHECK(read_file(folder / "out").ends_with("\n"));
}

TEST_CASE("trace records one run with names, types and shapes of the reference") {
  const fs::path file = bench().folder / "trace.safetensors";
  const Result result = vlmzoo(with_model({"trace", "-p", "<image>\nHow many?", "--image", bench().picture, "--set",
                                           "model.max_tiles=1", "--max-new-tokens", "4", "--output", file.string()}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  const SafetensorsFile trace(file);
  const auto shape = [&](const char* name, DType dtype) {
    const TensorEntry* entry = trace.find(name);
    REQUIRE_MESSAGE(entry != nullptr, name);
    CHECK(entry->dtype == dtype);
    return entry->shape;
  };
  using Shape = std::vector<std::int64_t>;
  CHECK(shape("pixel_values", DType::kF32) == Shape{1, 3, 56, 56});
  CHECK(shape("vision_last_hidden_state", DType::kF32) == Shape{1, 17, 64});
  CHECK(shape("image_embeds", DType::kF32) == Shape{4, 96});
  const Shape ids = shape("input_ids", DType::kI64);
  CHECK(ids[0] == 1);
  CHECK(shape("last_hidden_state", DType::kF32) == Shape{1, ids[1], 96});
  CHECK(shape("logits", DType::kF32) == Shape{1, 612});
  CHECK(shape("generated_ids", DType::kI64).at(0) <= 4);
  CHECK(trace.metadata().at("model_type") == "internvl");
  CHECK(trace.metadata().at("prompt") == "<image>\nHow many?");
  CHECK(trace.metadata().at("precision") == "fp32");
  CHECK_FALSE(trace.metadata().at("version").empty());

  const Result text = vlmzoo(with_model({"trace", "-p", "How?", "--max-new-tokens", "1", "--output", file.string()}));
  CHECK(text.code == 0);
  CHECK(SafetensorsFile(file).find("pixel_values") == nullptr);
}

TEST_CASE("trace --compare tells by its code and by stage whether a run is as the recorded one") {
  const std::string file = (bench().folder / "reference.safetensors").string(),
                    other = (bench().folder / "other.safetensors").string();
  const std::vector<std::string> recording = {"trace",
                                              "-p",
                                              "How many?",
                                              "--image",
                                              bench().picture,
                                              "--max-new-tokens",
                                              "3",
                                              "--model",
                                              bench().checkpoint.string()};
  const std::vector<std::string> run = joined(recording, {"--precision", "fp32"});
  REQUIRE(vlmzoo(joined(run, {"--output", file})).code == 0);
  const Result same = vlmzoo(joined(run, {"--compare", file, "--tolerance", "0"}));
  CHECK(same.code == 0);
  CHECK(contains(same.out, "all stages of the reference are within 0"));

  const Result coarse =
      vlmzoo(joined(recording, {"--precision", "bf16", "--compare", file, "--output", other, "--json"}));
  CHECK(coarse.code == 3);
  const Json document = Json::parse(coarse.out);
  CHECK(keys(document) == std::set<std::string>{"reference", "tolerance", "within", "first_above", "stages"});
  CHECK(document["within"] == false);
  CHECK(document["first_above"] == "vision_last_hidden_state");
  for (const Json& stage : document["stages"]) {
    CHECK(keys(stage) == std::set<std::string>{"name", "verdict", "shape", "reference_shape", "largest", "mean",
                                               "relative", "cosine"});
  }
  const Result files = vlmzoo({"trace", "--compare", file, other});
  CHECK(files.code == 3);
  CHECK(contains(files.out, "first stage that is not within 0.0001: vision_last_hidden_state (above)"));

  check_refusal(joined(run, {"--compare", "/does/not/exist.safetensors"}), 1, {"/does/not/exist.safetensors"});
  check_refusal({"trace", "--compare", file, bench().picture}, 1, {bench().picture, "not a safetensors file"});
  check_refusal({"trace", "--compare", (bench().checkpoint / "model.safetensors").string(), file}, 1,
                {"is it a trace"});
  check_refusal({"trace", file}, 2, {"--recorded needs --compare FILE"});
  check_refusal({"trace", "--compare", file, other, "-p", "x"}, 2, {"--prompt is for a new run"});
  check_refusal({"trace", "--compare", file, other, "--tolerance", "-1"}, 2, {"--tolerance is -1"});
  check_refusal(run, 2, {"--output or --compare is missing"});
}

TEST_CASE("init writes the same values whole and in shards, and never over what isn't a checkpoint") {
  const fs::path sharded = bench().folder / "sharded";
  REQUIRE(vlmzoo(joined(init_arguments(sharded), {"--max-shard-size", "200KB", "--threads", "1"})).code == 0);
  CHECK_FALSE(fs::exists(sharded / "model.safetensors"));
  const Json index = read_json(sharded / "model.safetensors.index.json");
  const SafetensorsFile whole(bench().checkpoint / "model.safetensors");
  CHECK(index["weight_map"].size() == whole.entries().size());
  std::uint64_t total = 0;
  for (const TensorEntry& entry : whole.entries()) {
    CAPTURE(entry.name);
    const SafetensorsFile shard(sharded / index["weight_map"][entry.name].get<std::string>());
    const TensorEntry* other = shard.find(entry.name);
    REQUIRE(other != nullptr);
    CHECK(entry.dtype == DType::kBF16);
    std::vector<std::byte> a(entry.bytes()), b(other->bytes());
    whole.read(entry, 0, a);
    shard.read(*other, 0, b);
    CHECK(a == b);
    total += entry.bytes();
  }
  CHECK(index["metadata"]["total_size"] == total);
  CHECK(read_json(sharded / "config.json")["torch_dtype"] == "bfloat16");
  CHECK(read_json(sharded / "config.json")["llm_config"]["torch_dtype"] == "bfloat16");

  check_refusal(init_arguments(sharded), 2, {"not empty", "--force"});
  CHECK(vlmzoo(joined(init_arguments(sharded), {"--force", "--dtype", "fp32"})).code == 0);
  CHECK_FALSE(fs::exists(sharded / "model.safetensors.index.json"));
  CHECK(fs::file_size(sharded / "model.safetensors") > total * 2);
  write_file(sharded / "thesis.tex", "years of work");
  check_refusal(joined(init_arguments(sharded), {"--force"}), 2, {"thesis.tex"});
  CHECK(fs::exists(sharded / "thesis.tex"));
}

TEST_CASE("init knows the presets of the plugins and refuses what makes no sense") {
  const Result presets = vlmzoo({"init", "--list-presets"});
  CHECK(presets.code == 0);
  CHECK(contains(presets.out, "internvl2_5-1b"));
  const std::string output = (bench().folder / "none").string();
  const std::string tokenizer = (kData / "tokenizer" / "tokenizer.json").string();
  check_refusal({"init", "--preset", "nope", "--tokenizer", tokenizer, "--output", output}, 2,
                {"nope", "internvl2_5-1b"});
  check_refusal({"init", "--tokenizer", tokenizer, "--output", output}, 2, {"--preset", "--config-json"});
  check_refusal({"init", "--preset", "internvl2_5-1b", "--output", output}, 2, {"--tokenizer is missing"});
  check_refusal(joined(init_arguments(output), {"--dtype", "int4"}), 2, {"int4", "bf16"});
  check_refusal(joined(init_arguments(output), {"--max-shard-size", "some"}), 2, {"some"});
  CHECK_FALSE(fs::exists(output));
}

TEST_CASE("bench reports every figure under its agreed name") {
  const Result result = vlmzoo(with_model(
      {"bench", "--json", "--repeats", "3", "--prompt-tokens", "200", "--decode-tokens", "4", "--threads", "1"}));
  INFO(result.err);
  REQUIRE(result.code == 0);
  const Json document = Json::parse(result.out);
  CHECK(keys(document) == std::set<std::string>{"load_s", "vision_ms_per_tile", "prefill_s", "prefill_tok_per_s",
                                                "decode_tok_per_s", "peak_memory_bytes", "kept_memory_bytes",
                                                "weight_bytes", "decode_bytes_per_token", "memory_bandwidth_gb_s",
                                                "decode_bandwidth_share", "precision", "threads", "cpu"});
  for (const char* name : {"load_s", "vision_ms_per_tile", "prefill_s", "prefill_tok_per_s", "decode_tok_per_s"}) {
    CAPTURE(name);
    CHECK(document[name]["min"] > 0.0);
    CHECK(document[name]["median"] >= document[name]["min"]);
  }
  CHECK(document["threads"] == 1);
  CHECK(document["precision"]["language"] == "fp32");
  CHECK(document["peak_memory_bytes"] > document["weight_bytes"]);
  CHECK(document["kept_memory_bytes"] < document["peak_memory_bytes"]);
  CHECK(document["decode_bytes_per_token"] < document["weight_bytes"]);
  CHECK(document["decode_bytes_per_token"] > 0);
  // The median of three is one of them, so that both figures of prefill belong to one run.
  const double tokens =
      document["prefill_s"]["median"].get<double>() * document["prefill_tok_per_s"]["median"].get<double>();
  CHECK(tokens <= 200.001);
  CHECK(tokens >= 190);
}

}  // namespace vlmzoo::test
