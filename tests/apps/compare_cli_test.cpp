#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "compare/model_pair.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/json.hpp"

#undef CHECK  // LibTorch's aborts
#include "program.hpp"

// `compare` and `verify`, run as a user runs them, on tiny checkpoints of both models with random weights.
namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(VLMZOO_TEST_DATA) / "data";

void init(const fs::path& source, const fs::path& output) {
  const bool own = fs::exists(source / "tokenizer.json");
  const Result result = vlmzoo(
      {"init", "--quiet", "--config-json", (source / "config.json").string(), "--preprocessor",
       (source / "preprocessor_config.json").string(), "--generation", (source / "generation_config.json").string(),
       "--tokenizer", ((own ? source : kData / "tokenizer") / "tokenizer.json").string(), "--output", output.string()});
  INFO(result.err);
  REQUIRE(result.code == 0);
}

/// Two checkpoints with heads that count as trained, and pictures; made once.
struct Bench {
  TemporaryFolder folder;
  fs::path baseline = folder / "internvl.yaml", candidate = folder / "llama_vision.yaml", data = folder / "receipts";

  Bench() {
    init(kData / "internvl" / "release", folder / "internvl");
    init(kData / "llama_vision" / "instruct", folder / "llama_vision");
    model("internvl", "internvl", 1);
    model("llama_vision", "llama-vision", 2);
    write_file(folder / "zoo.yaml",
               "active: internvl\nmodels:\n  internvl: internvl.yaml\n  llama_vision: llama_vision.yaml\n");
    const Result result = vlmzoo(
        {"synth", "receipts", "--quiet", "--count", "24", "--size", "64", "--seed", "5", "--output", data.string()});
    INFO(result.err);
    REQUIRE(result.code == 0);
  }

  void model(const std::string& name, const std::string& type, std::int64_t seed) const {
    write_file(
        folder / (name + ".yaml"),
        fmt::format("model:\n  model_type: {0}\n  pretrained_path: {1}\n  head: {1}-head.safetensors\n"
                    "  precision: fp32\n  classifier: {{hidden_dims: [], dropout_rates: [], batch_norm: false}}\n",
                    type, name));
    const Result info =
        vlmzoo({"info", "--json", "--quiet", "--model", (folder / name).string(), "--model-type", type});
    INFO(info.err);
    REQUIRE(info.code == 0);
    const Json json = Json::parse(info.out);
    HeadConfig head;
    head.model_type = json.at("model_type").get<std::string>();
    head.num_features = json.at("num_features").get<std::int64_t>();
    head.text_hidden_size = json.at("text_hidden_size").get<std::int64_t>();
    head.classifier = {{}, {}, false, "gelu"};
    head.class_names = {"none", "one", "several"};
    save_head(folder / (name + "-head.safetensors"), fresh_head(head, seed));
  }
};

const Bench& bench() {
  static const Bench instance;
  return instance;
}

std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

/// `verb` on both models and all pictures, with its cache in `cache`.
Result run(const std::string& verb, const fs::path& cache, const std::vector<std::string>& more = {},
           const fs::path& data = bench().data) {
  const std::vector<std::string> arguments =
      joined({verb, "--baseline", bench().baseline.string(), "--candidate", bench().candidate.string(), "--data",
              data.string(), "--split", "all", "--threads", "1"},
             more);
  return shell("export XDG_CACHE_HOME=" + quote(cache.string()) + "; " + words(arguments));
}

Json compared(const fs::path& cache, const std::vector<std::string>& more = {}, const fs::path& data = bench().data) {
  const Result result = run("compare", cache, joined({"--json"}, more), data);
  INFO(result.err);
  REQUIRE(result.code == 0);
  return Json::parse(result.out);
}

void check_refusal(const Result& result, int code, const std::vector<std::string>& parts) {
  CAPTURE(result.err);
  CHECK(result.code == code);
  CHECK(result.out.empty());
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(result.err, part));
  }
}

/// A copy of the pictures and their table, to be spoiled.
struct DataCopy {
  TemporaryFolder folder;
  fs::path path = folder / "data";

  DataCopy() { fs::copy(bench().data, path, fs::copy_options::recursive); }
  void edit(const std::string& from, const std::string& to) const {
    std::string text = read_file(path / "labels.csv");
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    write_file(path / "labels.csv", text.replace(at, from.size(), to));
  }
};

const Json* find_check(const Json& json, const std::string& name) {
  for (const Json& check : json.at("checks")) {
    if (check.at("name") == name) return &check;
  }
  return nullptr;
}

std::string status_of(const Json& json, const std::string& name) {
  const Json* check = find_check(json, name);
  REQUIRE(check != nullptr);
  CAPTURE(check->dump());
  CHECK(!check->at("evidence").get<std::string>().empty());
  return check->at("status");
}

}  // namespace

TEST_CASE("compare tells programs all that the issue names, and the numbers fit each other") {
  const TemporaryFolder cache;
  const Json json = compared(cache.path());
  const std::int64_t n = json.at("n");
  CHECK(n == 24);
  CHECK(std::set<std::string>{"better", "equivalent", "worse", "undecided"}.contains(json.at("verdict")));
  CHECK(std::set<std::string>{"yes", "no", "undecided"}.contains(json.at("replace")));
  const double difference = json.at("accuracy_difference");
  CHECK(difference == doctest::Approx(json.at("candidate").at("accuracy").get<double>() -
                                      json.at("baseline").at("accuracy").get<double>()));
  CHECK(json.at("accuracy_difference_ci").at(0) <= difference);
  CHECK(json.at("accuracy_difference_ci").at(1) >= difference);
  const Json& flips = json.at("flips");
  CHECK(flips.at("baseline_only_correct").is_number_integer());
  CHECK(flips.at("candidate_only_correct").is_number_integer());
  CHECK(flips.at("candidate_only_correct").get<double>() - flips.at("baseline_only_correct").get<double>() ==
        doctest::Approx(difference * static_cast<double>(n)));
  CHECK(json.at("flipped_items").at("baseline_only_correct").size() == flips.at("baseline_only_correct"));
  CHECK(json.at("mcnemar_p").get<double>() <= 1);
  CHECK(json.at("kappa").get<double>() <= 1);
  CHECK(json.at("margin") == 0.02);
  CHECK(contains(json.at("rule"), "equivalent: the 90 % interval lies inside (−m, m)"));
  for (const char* side : {"baseline", "candidate"}) {
    for (const char* key :
         {"accuracy_ci", "macro_f1", "ece", "latency_ms", "throughput", "load_seconds", "peak_memory_bytes"}) {
      CAPTURE(key);
      CHECK(json.at(side).contains(key));
    }
    CHECK(json.at(side).at("peak_memory_bytes").get<double>() > 1e6);
  }
  CHECK(json.at("ratios").at("latency_p95").get<double>() > 0);
  CHECK(json.at("per_class").size() == 3);
}

TEST_CASE("a second comparison computes nothing, one more picture is one more computed, --no-cache is all again") {
  const TemporaryFolder cache;
  const DataCopy data;
  const Json first = compared(cache.path(), {}, data.path);
  CHECK(first.at("baseline").at("cached") == 0);
  const Json second = compared(cache.path(), {}, data.path);
  for (const char* side : {"baseline", "candidate"}) {
    CHECK(second.at(side).at("cached") == 24);
    CHECK(second.at(side).at("latency_ms") == first.at(side).at("latency_ms"));  // the recorded times
    CHECK(second.at(side).at("load_seconds") == first.at(side).at("load_seconds"));
    CHECK(second.at(side).at("accuracy") == first.at(side).at("accuracy"));
  }
  fs::copy(kData / "images" / "square.png", data.path / "images" / "more.png");
  data.edit("image,label,count,answer,split\n", "image,label,count,answer,split\nimages/more.png,none,0,none,test\n");
  const Json third = compared(cache.path(), {}, data.path);
  CHECK(third.at("n") == 25);
  CHECK(third.at("baseline").at("cached") == 24);
  CHECK(third.at("candidate").at("cached") == 24);
  const Json fourth = compared(cache.path(), {"--no-cache"}, data.path);
  CHECK(fourth.at("baseline").at("cached") == 0);
  CHECK(fourth.at("baseline").at("accuracy") == third.at("baseline").at("accuracy"));
  CHECK(fourth.at("flips") == third.at("flips"));
}

TEST_CASE("an interrupted comparison concludes nothing and goes on where it was") {
  const TemporaryFolder cache;
  const std::string command =
      words({"compare", "--baseline", bench().baseline.string(), "--candidate", bench().candidate.string(), "--data",
             bench().data.string(), "--split", "all", "--threads", "1", "--json"});
  // Interrupted once there are results: eight records of some hundred bytes.
  const Result cut =
      shell(fmt::format("export XDG_CACHE_HOME={0}; {1} & pid=$!; for i in $(seq 600); do "
                        "[ \"$(cat {0}/vlmzoo/results/* 2>/dev/null | wc -c)\" -gt 1500 ] && break; sleep 0.02; done; "
                        "kill -INT $pid; wait $pid",
                        quote(cache.path().string()), command));
  CAPTURE(cut.err);
  CHECK(cut.code == 130);
  CHECK(cut.out.empty());
  CHECK(contains(cut.err, "the same command goes on from here"));
  const Json json = compared(cache.path());
  CHECK(json.at("n") == 24);
  CHECK(json.at("baseline").at("cached") > 0);
  CHECK(json.at("baseline").at("cached") < 24);
}

TEST_CASE("the models take turns or run one after the other, whichever memory asks for, with the same results") {
  const app::MemoryNeed small{1'000, 100, true}, large{5'000, 300, true};
  CHECK(app::choose_residency(small, large, 6'300).together);
  CHECK(!app::choose_residency(small, large, 6'299).together);
  CHECK(contains(app::choose_residency(small, large, 6'299).reason, "run one after the other"));
  CHECK(!app::choose_residency({1, 1, false}, small, 1'000'000).together);

  const TemporaryFolder cache;
  const Result together = run("compare", cache.path(), {"--json", "--no-cache"});
  const Result sequential = run("compare", cache.path(), {"--json", "--no-cache", "--sequential"});
  CHECK(contains(together.err, "they take turns"));
  CHECK(contains(sequential.err, "one after the other"));
  const Json first = Json::parse(together.out), second = Json::parse(sequential.out);
  for (const char* key : {"n", "flips", "accuracy_difference", "kappa", "verdict", "per_class"}) {
    CAPTURE(key);
    CHECK(first.at(key) == second.at(key));
  }
  // What each model takes doesn't count the other one.
  const double memory = first.at("candidate").at("peak_memory_bytes"),
               alone = second.at("candidate").at("peak_memory_bytes");
  CHECK(std::abs(memory - alone) < 0.5 * alone);
}

TEST_CASE("gates decide the exit code and are told with their numbers") {
  const TemporaryFolder cache;
  const Result held = run("compare", cache.path(), {"--gate", "accuracy>=0", "--gate", "latency_p95<=1000x", "--json"});
  CHECK(held.code == 0);
  CHECK(Json::parse(held.out).at("gates").size() == 2);
  CHECK(Json::parse(held.out).at("gates").at(1).at("passed") == true);
  const Result broken = run("compare", cache.path(), {"--gate", "accuracy>=0", "--gate", "accuracy>1"});
  CHECK(broken.code == 3);
  CHECK(contains(broken.out, "BROKEN"));
  CHECK(contains(broken.out, "is not > 1"));
  CHECK(contains(broken.out, "Verdict: "));
  check_refusal(run("compare", cache.path(), {"--gate", "acuracy>=0.9"}), 2,
                {"did you mean 'accuracy'?", "latency_p95"});
  check_refusal(run("compare", cache.path(), {"--gate", "token_f1>=0.9"}), 2, {"add --answers"});
}

TEST_CASE("models are named by a zoo file, the baseline being the active one") {
  const TemporaryFolder cache;
  const auto by_zoo = [&](const std::vector<std::string>& more) {
    return shell("export XDG_CACHE_HOME=" + quote(cache.path().string()) + "; " +
                 words(joined({"compare", "--zoo", (bench().folder / "zoo.yaml").string(), "--data",
                               bench().data.string(), "--split", "all", "--json", "--threads", "1"},
                              more)));
  };
  const Result named = by_zoo({"--candidate", "llama_vision"});
  INFO(named.err);
  REQUIRE(named.code == 0);
  const Json json = Json::parse(named.out);
  CHECK(json.at("baseline").at("model_type") == "internvl");
  CHECK(json.at("candidate").at("model_type") == "llama-vision");
  check_refusal(by_zoo({"--candidate", "lama_vision"}), 1, {"lama_vision", "llama_vision"});
  check_refusal(by_zoo({}), 2, {"--candidate is missing"});
  check_refusal(vlmzoo({"compare", "--candidate", bench().candidate.string(), "--data", bench().data.string()}), 2,
                {"--baseline is missing"});
}

TEST_CASE("answers are compared side by side") {
  const TemporaryFolder cache;
  const Json json = compared(cache.path(), {"--answers", "--prompt", "How many receipts are there?", "--limit", "3",
                                            "--set", "generation.max_new_tokens=4"});
  CHECK(json.at("answers").at("n") == 3);
  for (const char* side : {"baseline", "candidate"}) {
    for (const char* metric : {"exact_match", "normalized_match", "token_f1"}) {
      const double value = json.at("answers").at(side).at(metric);
      CHECK(value >= 0);
      CHECK(value <= 1);
    }
  }
}

TEST_CASE("the report is complete, asks for nothing outside and says in every form what few items can't tell") {
  const TemporaryFolder cache, output;
  const fs::path report = output / "report";
  const std::vector<std::string> more = {"--output", report.string(), "--limit", "8", "--gate", "accuracy>=0"};
  const Result result = run("compare", cache.path(), more);
  INFO(result.err);
  REQUIRE(result.code == 0);
  CHECK(contains(result.out, "Report: " + (report / "report.html").string()));
  CHECK(contains(result.out, "8 items can't carry a conclusion"));
  const std::string html = read_file(report / "report.html"), markdown = read_file(report / "report.md");
  const Json json = read_json(report / "comparison.json");
  CHECK(json.at("warnings").size() >= 1);
  for (const std::string& text : {html, markdown}) {
    CHECK(contains(text, "8 items can"));
    CHECK(contains(text, json.at("verdict").get<std::string>() + " (replace: "));
    CHECK(contains(text, "model.pretrained_path"));  // of the differences of the configurations
    CHECK(contains(text, "LibTorch"));
    CHECK(contains(text, "McNemar"));
    CHECK(contains(text, "Gates"));
  }
  for (const char* part : {"Accuracy", "Latency per picture", "Reliability, baseline", "Memory", "data:image/jpeg"}) {
    CAPTURE(part);
    CHECK(contains(html, part));
  }
  CHECK(html.find(json.at("verdict").get<std::string>()) < html.find("<table"));
  for (const char* outside : {"<script", "href=\"http", "src=\"http", "url(http", "@import"}) {
    CAPTURE(outside);
    CHECK(!contains(html, outside));
  }
  for (const char* file : {"baseline.csv", "candidate.csv"}) {
    const std::string csv = read_file(report / file);
    CHECK(std::count(csv.begin(), csv.end(), '\n') == 9);
  }
  CHECK(contains(read_file(report / "candidate.config.yaml"), "llama-vision"));
  check_refusal(run("compare", cache.path(), more), 2, {"not empty", "--force"});
  CHECK(run("compare", cache.path(), joined(more, {"--force"})).code == 0);
}

TEST_CASE("the report opens in a browser without a complaint") {
  const char* named = std::getenv("VLMZOO_CHROMIUM");
  const std::string browser = named != nullptr ? named : "chromium";
  if (shell("command -v " + quote(browser)).code != 0) {
    MESSAGE("skipped: no Chromium here (apt-get install chromium)");
    return;
  }
  const TemporaryFolder cache, output;
  const fs::path report = output / "report";
  REQUIRE(run("compare", cache.path(), {"--output", report.string(), "--limit", "12"}).code == 0);
  const fs::path screenshot = fs::path(VLMZOO_BUILD) / "tests" / "compare_report.png";
  fs::remove(screenshot);
  const Result result = shell(fmt::format(
      "timeout 120 {} --headless --no-sandbox --disable-gpu --user-data-dir={} --enable-logging=stderr --v=0 "
      "--window-size=1200,2400 --screenshot={} {}",
      quote(browser), quote((output / "profile").string()), quote(screenshot.string()),
      quote("file://" + (report / "report.html").string())));
  CAPTURE(result.err);
  CHECK(result.code == 0);
  CHECK(!contains(result.err, "CONSOLE"));
  REQUIRE(fs::exists(screenshot));
  CHECK(fs::file_size(screenshot) > 20'000);
}

TEST_CASE("what can't be compared is told before anything is computed") {
  const TemporaryFolder cache;
  const auto refused = [&](const fs::path& data, int code, const std::vector<std::string>& parts) {
    check_refusal(run("compare", cache.path(), {"--json"}, data), code, parts);
  };
  refused("/does/not/exist", 1, {"/does/not/exist"});
  {
    const DataCopy data;
    data.edit(",one,", ",,");
    refused(data.path, 1, {"labels.csv:", "label"});
  }
  {
    const DataCopy data;
    data.edit(",one,", ",many,");
    refused(data.path, 1, {"many"});
  }
  const auto option = [&](const std::vector<std::string>& more, int code, const std::vector<std::string>& parts) {
    check_refusal(run("compare", cache.path(), more), code, parts);
  };
  option({"--margin", "1"}, 2, {"--margin is 1"});
  option({"--margin", "nan"}, 2, {"--margin is nan"});
  option({"--alpha", "0.5"}, 2, {"--alpha is 0.5"});
  option({"--prompt", "x"}, 2, {"--prompt is for --answers"});
  option({"--force"}, 2, {"--force is for --output"});
  const TemporaryFolder folders;  // a folder for each class
  fs::create_directories(folders / "one");
  fs::create_directories(folders / "none");
  fs::create_directories(folders / "several");
  for (const char* name : {"one", "none", "several"}) {
    fs::copy(bench().data / "images" / "0000001.jpg", folders / name / "picture.jpg");
  }
  check_refusal(run("compare", cache.path(), {"--answers", "--prompt", "How many?"}, folders.path()), 1,
                {"expects no answers"});
  CHECK(!fs::exists(cache / "vlmzoo"));  // nothing ran
}

TEST_CASE("models of different classes are refused with both lists") {
  const TemporaryFolder cache;
  const std::string other = (bench().folder / "classes.yaml").string();
  write_file(
      other,
      fmt::format(
          "model:\n  model_type: llama-vision\n  pretrained_path: {}\n  id2label: {{0: none, 1: one, 2: many}}\n",
          (bench().folder / "llama_vision").string()));
  check_refusal(vlmzoo({"compare", "--baseline", bench().baseline.string(), "--candidate", other, "--data",
                        bench().data.string(), "--no-cache"}),
                1, {"different classes", "the baseline none, one, several", "the candidate none, one, many"});
}

TEST_CASE("a picture that neither model can read is left out, counted, and fails the exit code unless --skip-bad") {
  const TemporaryFolder cache;
  const DataCopy data;
  write_file(data.path / "images" / "0000003.jpg", "no picture");
  const Result result = run("compare", cache.path(), {"--json"}, data.path);
  CHECK(result.code == 1);
  CHECK(contains(result.err, "0000003.jpg"));
  const Json json = Json::parse(result.out);
  CHECK(json.at("n") == 23);
  CHECK(json.at("unreadable") == 1);
  CHECK(run("compare", cache.path(), {"--json", "--skip-bad"}, data.path).code == 0);
  const Result checked = run("verify", cache.path(), {"--json", "--skip-bad"}, data.path);
  CAPTURE(checked.err);
  CHECK(status_of(Json::parse(checked.out), "image pipeline") == "pass");
  CHECK(contains(checked.err, "0000003.jpg"));
}

TEST_CASE("verify goes through the whole checklist, with evidence for each line") {
  const TemporaryFolder cache;
  const Result result = run("verify", cache.path(), {"--json", "--max-latency", "1000x"});
  INFO(result.err);
  CHECK(result.code == 3);  // random weights don't stop by themselves
  const Json json = Json::parse(result.out);
  CHECK(json.at("verdict") == "fail");
  std::vector<std::string> names;
  for (const Json& check : json.at("checks")) names.push_back(check.at("name"));
  CHECK(names == std::vector<std::string>{"loads", "image pipeline", "head outputs", "text generation", "training step",
                                          "validation metrics", "inference speed", "rollback"});
  for (const char* name : {"loads", "image pipeline", "head outputs", "training step", "inference speed", "rollback"}) {
    CAPTURE(name);
    CHECK(status_of(json, name) == "pass");
  }
  CHECK(contains(find_check(json, "rollback")->at("evidence"), "equal bit for bit"));
  CHECK(contains(find_check(json, "training step")->at("evidence"), "gradient norm"));

  const Result markdown = run("verify", cache.path(), {"--markdown"});
  CHECK(markdown.code == 3);
  CHECK(contains(markdown.out, "| check | status | evidence |\n|---|---|---|\n| loads | pass |"));
  CHECK(contains(markdown.out, "| inference speed | skipped | no limit is set"));
}

TEST_CASE("verify passes a model against itself once its answers stop and there are pictures enough") {
  const TemporaryFolder cache, more;
  REQUIRE(vlmzoo({"synth", "receipts", "--quiet", "--count", "82", "--size", "64", "--seed", "6", "--output",
                  (more / "data").string()})
              .code == 0);
  const Result result =
      shell("export XDG_CACHE_HOME=" + quote(cache.path().string()) + "; " +
            words({"verify", "--baseline", bench().baseline.string(), "--candidate", bench().baseline.string(),
                   "--data", (more / "data").string(), "--split", "all", "--threads", "1", "--set",
                   "generation.stop=[\" \", \"a\", \"e\", \"i\", \"o\", \"n\", \"r\", \"s\", \"t\", \"d\"]",
                   "--max-new-tokens", "60"}));
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK(contains(result.out, "pass     validation metrics"));
  CHECK(contains(result.out, "stops by itself"));
}

TEST_CASE("a candidate that doesn't load fails its checks, and the rest says why it was skipped") {
  const TemporaryFolder cache;
  const fs::path broken = bench().folder / "broken";
  fs::remove_all(broken);
  fs::copy(bench().folder / "llama_vision", broken);
  const std::string weights = read_file(broken / "model.safetensors");
  write_file(broken / "model.safetensors", weights.substr(0, weights.size() / 2));
  const Result result =
      run("verify", cache.path(),
          {"--json", "--set", "model.pretrained_path=" + broken.string(), "--set", "model.model_type=llama-vision"});
  CHECK(result.code == 3);
  const Json json = Json::parse(result.out);
  CHECK(status_of(json, "loads") == "fail");
  CHECK(status_of(json, "image pipeline") == "skipped");
  CHECK(status_of(json, "validation metrics") == "fail");
  CHECK(status_of(json, "inference speed") == "skipped");
  CHECK(status_of(json, "rollback") == "fail");
}

}  // namespace vlmzoo::test
