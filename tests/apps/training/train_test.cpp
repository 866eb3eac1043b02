// `vlmzoo train` from outside: what it writes, and that nothing it learned is lost.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "program.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/random.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

/// A tiny checkpoint of each model and 60 pictures, made once.
struct Material {
  TemporaryFolder folder;

  Material() {
    REQUIRE(vlmzoo({"synth", "receipts", "--count", "60", "--seed", "3", "--size", "64", "--output",
                    (folder / "data").string(), "--threads", "1"})
                .code == 0);
    const fs::path data = fs::path(VLMZOO_TEST_DATA) / "data";
    const auto init = [&](const char* name, const fs::path& source, const fs::path& tokenizer) {
      const Result made = vlmzoo({"init", "--config-json", (source / "config.json").string(), "--preprocessor",
                                  (source / "preprocessor_config.json").string(), "--generation",
                                  (source / "generation_config.json").string(), "--tokenizer", tokenizer.string(),
                                  "--dtype", "fp32", "--output", (folder / name).string()});
      INFO(made.err);
      REQUIRE(made.code == 0);
    };
    init("internvl", data / "internvl" / "release", data / "tokenizer" / "tokenizer.json");
    init("llama-vision", data / "llama_vision" / "instruct", data / "llama_vision" / "instruct" / "tokenizer.json");
    for (const std::string type : {"internvl", "llama-vision"}) {
      write_file(folder / (type + ".yaml"),
                 fmt::format("model:\n  model_type: {0}\n  pretrained_path: {0}\n  max_tiles: 1\n"
                             "  classifier: {{hidden_dims: [16], dropout_rates: [0.1], batch_norm: true}}\n"
                             "training:\n  batch_size: 4\n  gradient_accumulation_steps: 2\n  epochs: 3\n"
                             "  learning_rate: 1.0e-3\n  warmup_steps: 2\n  ema_decay: 0.9\n  logging_steps: 1\n"
                             "  save_steps: 1\n  prompt: How many?\n",
                             type));
    }
  }

  std::vector<std::string> train(const std::string& type, const std::string& run,
                                 const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"train",
                                          "--config",
                                          (folder / (type + ".yaml")).string(),
                                          "--data",
                                          (folder / "data").string(),
                                          "--output",
                                          (folder / run).string(),
                                          "--threads",
                                          "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  std::vector<std::string> jointly(const std::string& type, const std::string& run,
                                   const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments =
        train(type, run,
              {"--set", "model.freeze_vision_encoder=false", "--set", "training.epochs=2", "--set",
               "training.augmentations=[flip, brightness]", "--set", "training.region_loss_weight=0.5"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
};

const Material& material() {
  static const Material instance;
  static const bool cache = ::setenv("XDG_CACHE_HOME", (instance.folder / "cache").c_str(), 1) == 0;
  REQUIRE(cache);
  return instance;
}

std::string tensors_of(const fs::path& file) { return sha256_of_file(file); }

std::vector<Json> metrics(const fs::path& run) {
  std::vector<Json> lines;
  std::istringstream text(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) lines.push_back(parse_json(line, "metrics"));
  return lines;
}

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

/// How many tensors of a checkpoint training changed and left alone, among those with `part` in their name, and how
/// many it changed among the others.
struct Changes {
  std::int64_t changed = 0, unchanged = 0, others = 0;
};

Changes changes_of(const fs::path& before, const fs::path& after, const std::string& part) {
  const SafetensorsFile a(before), b(after);
  Changes result;
  for (const TensorEntry& entry : a.entries()) {
    std::vector<std::byte> x(entry.bytes()), y(entry.bytes());
    a.read(entry, 0, x);
    b.read(*b.find(entry.name), 0, y);
    if (contains(entry.name, part)) {
      ++(x != y ? result.changed : result.unchanged);
    } else {
      result.others += x != y ? 1 : 0;
    }
  }
  return result;
}

bool all_finite(const fs::path& file) {
  const SafetensorsFile tensors(file);
  return std::ranges::all_of(tensors.entries(), [&](const TensorEntry& entry) {
    if (entry.dtype != DType::kF32) return true;
    std::vector<float> values(entry.bytes() / sizeof(float));
    tensors.read(entry, 0, std::as_writable_bytes(std::span(values)));
    return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
  });
}

/// What was learned, without what was measured.
std::vector<Json> losses(const fs::path& run) {
  std::vector<Json> lines = metrics(run);
  for (Json& line : lines) {
    for (const char* measured : {"pictures_per_s", "waited_for_data"}) line.erase(measured);
  }
  return lines;
}

/// Starts the program without waiting; stderr goes to `log`.
pid_t start(const std::vector<std::string>& arguments, const fs::path& log) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", fmt::format("exec {} >{} 2>&1", words(arguments), quote(log.string())).c_str(),
            nullptr);
    ::_exit(127);
  }
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// Until the run has a checkpoint, or ended.
void wait_for_checkpoint(const fs::path& run, pid_t child) {
  while (!fs::exists(run / "checkpoint.safetensors") && ::kill(child, 0) == 0) {
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) != 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace

TEST_CASE("a head is trained on cached features: each picture goes through the vision tower once") {
  const Material& made = material();
  for (const std::string type : {"internvl", "llama-vision"}) {
    CAPTURE(type);
    const fs::path run = made.folder / ("head_" + type);
    const std::vector<std::string> frozen = {"--set", "model.freeze_language_model=true"};
    const Result first = vlmzoo(made.train(type, run.filename().string(), frozen));
    CAPTURE(first.err);
    REQUIRE(first.code == 0);
    CHECK(contains(first.err, "features of 51 pictures, 51 of them computed now"));
    for (const char* file : {"config.yaml", "checkpoint.safetensors", "metrics.jsonl", "head.safetensors",
                             "trained.yaml", "report.html", "predictions.csv"}) {
      CHECK(fs::exists(run / file));
    }
    CHECK(!fs::exists(run / "model"));
    const Result second = vlmzoo(made.train(type, "head_again_" + type, frozen));
    CHECK(contains(second.err, "features of 51 pictures, 0 of them computed now"));
    CHECK(tensors_of(run / "head.safetensors") ==
          tensors_of(made.folder / ("head_again_" + type) / "head.safetensors"));

    const Result used = vlmzoo({"classify", "--config", (run / "trained.yaml").string(),
                                (made.folder / "data" / "images" / "0000000.jpg").string(), "--json"});
    CAPTURE(used.err);
    REQUIRE(used.code == 0);
    CHECK(parse_json(used.out, "classify").at("results").at(0).at("probabilities").size() == 3);
    CHECK(!contains(used.err, "freshly initialised"));
  }
}

TEST_CASE("model and head are trained together, and the result is a checkpoint like the one it began with") {
  const Material& made = material();
  for (const std::string type : {"internvl", "llama-vision"}) {
    CAPTURE(type);
    const fs::path run = made.folder / ("joint_" + type);
    const Result trained = vlmzoo(made.jointly(type, run.filename().string()));
    CAPTURE(trained.err);
    REQUIRE(trained.code == 0);
    CHECK(contains(trained.out, "trained.yaml"));
    bool language = false, evaluated = false;
    for (const Json& line : metrics(run)) {
      language |= line.contains("language_loss") && line.contains("region_loss");
      evaluated |= line.contains("eval_accuracy");
    }
    CHECK(language);
    CHECK(evaluated);
    const SafetensorsFile before(made.folder / type / "model.safetensors"), after(run / "model" / "model.safetensors");
    REQUIRE(before.entries().size() == after.entries().size());
    for (const TensorEntry& entry : before.entries()) {
      REQUIRE(after.find(entry.name) != nullptr);
      CHECK(after.find(entry.name)->shape == entry.shape);
      CHECK(after.find(entry.name)->dtype == entry.dtype);
    }
    CHECK(tensors_of(before.path()) != tensors_of(after.path()));
    CHECK(
        vlmzoo({"ask", "--config", (run / "trained.yaml").string(), "--image",
                (made.folder / "data" / "images" / "0000000.jpg").string(), "-p", "How many?", "--max-new-tokens", "3"})
            .code == 0);
  }
}

TEST_CASE("each role can be trained alone") {
  const Material& made = material();
  struct Case {
    std::string type, role, part;
  };
  for (const Case& c :
       {Case{"internvl", "connector", "mlp1."}, Case{"llama-vision", "connector", "multi_modal_projector."},
        Case{"internvl", "language_model", "language_model."},
        Case{"llama-vision", "language_model", "language_model."}, Case{"internvl", "vision_encoder", "vision_model."},
        Case{"llama-vision", "vision_encoder", "vision_model."}}) {
    CAPTURE(c.type);
    CAPTURE(c.role);
    const std::string run = "alone_" + c.type + c.role;
    std::vector<std::string> more = {"--set", "training.epochs=1"};
    for (const std::string role : {"vision_encoder", "connector", "language_model"}) {
      more.emplace_back("--set");
      more.push_back(fmt::format("model.freeze_{}={}", role, role != c.role));
    }
    const Result trained = vlmzoo(made.train(c.type, run, more));
    CAPTURE(trained.err);
    REQUIRE(trained.code == 0);
    const Changes changes = changes_of(made.folder / c.type / "model.safetensors",
                                       made.folder / run / "model" / "model.safetensors", c.part);
    CHECK(changes.changed > 0);
    CHECK(changes.unchanged == 0);
    CHECK(changes.others == 0);
  }
}

TEST_CASE("early stopping ends a run that learns nothing more, and what is kept is the best evaluation") {
  const Material& made = material();
  const fs::path run = made.folder / "early";
  const Result trained =
      vlmzoo(made.train("internvl", "early",
                        {"--set", "model.freeze_language_model=true", "--set", "training.epochs=60", "--set",
                         "training.learning_rate=0.02", "--set", "training.early_stopping_patience=3"}));
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(contains(trained.err, "stopped early"));
  double best = 0, last_epoch = 0;
  std::int64_t since_best = 0;
  for (const Json& line : metrics(run)) {
    last_epoch = line.at("epoch").get<double>();
    if (!line.contains("eval_accuracy")) continue;
    ++since_best;
    if (line.at("eval_accuracy").get<double>() > best) {
      best = line.at("eval_accuracy").get<double>();
      since_best = 0;
    }
  }
  CHECK(last_epoch < 60);
  CHECK(since_best == 3);
  const Result judged = vlmzoo({"eval", "--config", (run / "trained.yaml").string(), "--data",
                                (made.folder / "data").string(), "--split", "val", "--json"});
  CAPTURE(judged.err);
  REQUIRE(judged.code == 0);
  CHECK(parse_json(judged.out, "eval").at("accuracy").get<double>() == best);
}

TEST_CASE("with answers the evaluation with the smallest loss is the best one, once the language loss has begun") {
  const Material& made = material();
  const fs::path run = made.folder / "answering";
  const Result trained = vlmzoo(made.jointly(
      "internvl", "answering", {"--set", "training.epochs=4", "--set", "training.language_loss_from=0.5"}));
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  std::vector<double> scores;
  for (const Json& line : metrics(run)) {
    if (!line.contains("eval_loss")) continue;
    if (line.at("epoch").get<double>() <= 2) {  // no step of it had the language loss
      CHECK(!line.contains("eval_language_loss"));
      CHECK(line.at("best") == false);
      continue;
    }
    REQUIRE(line.contains("eval_language_loss"));
    const double loss = line.at("eval_loss").get<double>() + line.at("eval_language_loss").get<double>();
    CHECK(line.at("best").get<bool>() == std::ranges::all_of(scores, [&](double before) { return loss < before; }));
    scores.push_back(loss);
  }
  CHECK(scores.size() == 2);
}

TEST_CASE("autocast to bf16 and activation checkpointing train too, or say that this processor computes in fp32") {
  const Material& made = material();
  for (const std::string type : {"internvl", "llama-vision"}) {
    CAPTURE(type);
    const Result trained = vlmzoo(made.jointly(
        type, "bf16_" + type,
        {"--set", "training.bf16=true", "--set", "training.memory_efficient=true", "--set", "training.epochs=1"}));
    CAPTURE(trained.err);
    CHECK(trained.code == 0);
    const bool has_bf16 = cpu_features().avx512_bf16 || cpu_features().amx_bf16;
    CHECK(count_of(trained.err, "computes in fp32") == (has_bf16 ? 0 : 1));
    for (const Json& line : metrics(made.folder / ("bf16_" + type))) {
      if (line.contains("loss")) CHECK(std::isfinite(line.at("loss").get<double>()));
    }
  }
}

TEST_CASE("data without a validation split is trained on, and a wrong label in that split is an error") {
  const Material& made = material();
  const fs::path data = made.folder / "without_val";
  fs::copy(made.folder / "data", data, fs::copy_options::recursive);
  std::string table = read_file(data / "labels.csv"), kept, wrong;
  std::istringstream lines(table);
  for (std::string line; std::getline(lines, line);) {
    const bool val = line.ends_with(",val");
    if (!val) kept += line + "\n";
    wrong += (val ? line.substr(0, line.find(',')) + ",ten,10,,val" : line) + "\n";
  }
  std::vector<std::string> arguments = made.train(
      "internvl", "without",
      {"--set", "model.freeze_language_model=true", "--set", "model.id2label={0: none, 1: one, 2: several}"});
  arguments[4] = data.string();
  write_file(data / "labels.csv", kept);
  const Result trained = vlmzoo(arguments);
  CAPTURE(trained.err);
  CHECK(trained.code == 0);
  CHECK(contains(trained.err, "no validation split"));
  write_file(data / "labels.csv", wrong);
  arguments.emplace_back("--force");
  const Result refused = vlmzoo(arguments);
  CAPTURE(refused.err);
  CHECK(refused.code == 1);
  CHECK(contains(refused.err, "ten"));
}

/// Each step was logged once, in order.
void check_steps(const fs::path& run) {
  std::int64_t last = 0;
  for (const Json& line : metrics(run)) {
    if (!line.contains("loss")) continue;
    CHECK(line.at("step").get<std::int64_t>() == last + 1);
    last = line.at("step").get<std::int64_t>();
  }
  CHECK(last > 0);
}

TEST_CASE("a run that is killed at any moment goes on to the same bits as one that isn't") {
  const Material& made = material();
  const char* asked = std::getenv("VLMZOO_TEST_KILLS");
  const int rounds = asked != nullptr ? std::atoi(asked) : 3;
  const auto began = std::chrono::steady_clock::now();
  REQUIRE(vlmzoo(made.jointly("internvl", "unbroken")).code == 0);
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const std::string head = tensors_of(made.folder / "unbroken" / "head.safetensors"),
                    model = tensors_of(made.folder / "unbroken" / "model" / "model.safetensors");
  Random random(11);
  for (int round = 0; round < rounds; ++round) {
    const std::string name = fmt::format("killed_{}", round);
    const fs::path run = made.folder / name;
    int code = 1000;
    for (int attempt = 0; code != 0 && attempt < 50; ++attempt) {
      const bool begun = fs::exists(run / "config.yaml");
      if (begun) {
        // Whatever is there is whole: a checkpoint that can be read, or none yet.
        if (fs::exists(run / "checkpoint.safetensors")) CHECK_NOTHROW(SafetensorsFile(run / "checkpoint.safetensors"));
      }
      const std::vector<std::string> more = begun ? std::vector<std::string>{"--resume"} : std::vector<std::string>{};
      const pid_t child = start(made.jointly("internvl", name, more), made.folder / "killed.log");
      if (attempt < 3) {
        std::this_thread::sleep_for(std::chrono::duration<double>(random.between(0.0, 0.9) * whole));
        ::kill(child, SIGKILL);
      }
      code = wait_for(child);
      CAPTURE(read_file(made.folder / "killed.log"));
      REQUIRE((code == 0 || code == 1000 + SIGKILL));
    }
    CHECK(code == 0);
    CHECK(tensors_of(run / "head.safetensors") == head);
    CHECK(tensors_of(run / "model" / "model.safetensors") == model);
    check_steps(run);
    for (const auto& entry : fs::directory_iterator(run)) CHECK(!entry.path().filename().string().starts_with('.'));
    fs::remove_all(run);
  }
  // Killed after its first steps but before its first checkpoint: what they logged is logged again.
  const fs::path run = made.folder / "unbroken";
  fs::remove(run / "checkpoint.safetensors");
  REQUIRE(vlmzoo(made.jointly("internvl", "unbroken", {"--resume"})).code == 0);
  CHECK(tensors_of(run / "head.safetensors") == head);
  check_steps(run);
}

TEST_CASE("batches computed at once give the losses of one after the other, the same bits with any number of threads") {
  const Material& made = material();
  const auto losses = [&](const std::string& run, const std::string& threads, bool at_once) {
    std::vector<std::string> arguments = made.jointly(
        "internvl", run,
        {"--set", "model.classifier.batch_norm=false", "--set", "model.classifier.dropout_rates=[0]", "--set",
         "training.optimizer=muon", "--set", fmt::format("training.parallel_batches={}", at_once)});
    *std::next(std::ranges::find(arguments, "--threads")) = threads;
    const Result result = vlmzoo(arguments);
    INFO(result.err);
    REQUIRE(result.code == 0);
    std::vector<double> values;
    for (const Json& line : metrics(made.folder / run)) {
      if (line.contains("loss")) values.push_back(line.at("loss").get<double>());
    }
    return values;
  };
  const std::vector<double> in_turn = losses("in_turn", "1", false), alone = losses("alone", "1", true),
                            together = losses("together", "3", true);
  REQUIRE(in_turn.size() >= 4);
  REQUIRE(alone.size() == in_turn.size());
  for (std::size_t i = 0; i < in_turn.size(); ++i) CHECK(std::abs(alone[i] - in_turn[i]) < 1e-3 * in_turn[i]);
  CHECK(alone == together);
}

TEST_CASE("SIGTERM saves and stops, and the run goes on to the same bits") {
  const Material& made = material();
  const std::vector<std::string> more = {
      "--set", "training.epochs=8", "--set", "model.freeze_vision_encoder=false", "--set", "training.logging_steps=7"};
  REQUIRE(vlmzoo(made.train("llama-vision", "straight", more)).code == 0);
  const fs::path run = made.folder / "stopped";
  const pid_t child = start(made.train("llama-vision", "stopped", more), made.folder / "stopped.log");
  wait_for_checkpoint(run, child);
  ::kill(child, SIGTERM);
  const int code = wait_for(child);
  const std::string log = read_file(made.folder / "stopped.log");
  CAPTURE(log);
  REQUIRE(code == 130);
  CHECK(contains(log, "go on with --resume"));
  std::vector<std::string> resumed = more;
  resumed.push_back("--resume");
  const Result rest = vlmzoo(made.train("llama-vision", "stopped", resumed));
  CHECK(rest.code == 0);
  CHECK(contains(rest.err, "resumed at step"));
  for (const char* file : {"head.safetensors", "model/model.safetensors"}) {
    CHECK(tensors_of(run / file) == tensors_of(made.folder / "straight" / file));
  }
  CHECK(losses(run) == losses(made.folder / "straight"));
}

TEST_CASE("a full disk is an error that keeps the last good checkpoint, and the run goes on when there is room") {
  const Material& made = material();
  const std::vector<std::string> more = {"--set", "training.epochs=4"};
  REQUIRE(vlmzoo(made.jointly("internvl", "roomy", more)).code == 0);
  const fs::path run = made.folder / "full", checkpoint = run / "checkpoint.safetensors";
  const pid_t child = start(made.jointly("internvl", "full", more), made.folder / "full.log");
  wait_for_checkpoint(run, child);
  ::kill(child, SIGKILL);
  wait_for(child);
  REQUIRE(fs::exists(checkpoint));
  const std::string before = sha256_of_file(checkpoint);
  write_file(run / ".checkpoint.safetensors.1.tmp", "what a killed save leaves");
  fs::create_directory(run / ".model.1.tmp");
  // Files of this process can't grow beyond some blocks: what a full disk looks like from inside.
  std::vector<std::string> resumed = more;
  resumed.emplace_back("--resume");
  const Result full = shell("ulimit -f 200; " + words(made.jointly("internvl", "full", resumed)));
  CAPTURE(full.err);
  CHECK(full.code == 1);
  CHECK(contains(full.err, ".safetensors"));
  CHECK(sha256_of_file(checkpoint) == before);
  REQUIRE(vlmzoo(made.jointly("internvl", "full", resumed)).code == 0);
  for (const char* file : {"head.safetensors", "model/model.safetensors"}) {
    CHECK(tensors_of(run / file) == tensors_of(made.folder / "roomy" / file));
  }
  for (const auto& entry : fs::directory_iterator(run)) CHECK(!entry.path().filename().string().starts_with('.'));
}

TEST_CASE("a loss that isn't a number stops the run, names the step and leaves the last good checkpoint") {
  const Material& made = material();
  const Result burst = vlmzoo(
      made.train("internvl", "burst",
                 {"--set", "training.learning_rate=100", "--set", "training.warmup_steps=0", "--set",
                  "training.gradient_clip=0", "--set", "training.weight_decay=100", "--set", "training.epochs=40"}));
  CAPTURE(burst.err);
  CHECK(burst.code == 1);
  CHECK(contains(burst.err, "error: step "));
  CHECK(contains(burst.err, "learning_rate"));
  CHECK(all_finite(made.folder / "burst" / "checkpoint.safetensors"));
}

TEST_CASE("a folder belongs to one run and one process, and isn't written over") {
  const Material& made = material();
  const fs::path used = made.folder / "used";
  fs::create_directory(used);
  write_file(used / "notes.txt", "mine");
  const std::vector<std::string> once = {"--set", "training.max_steps=1"};
  const Result refused = vlmzoo(made.train("internvl", "used", once));
  CAPTURE(refused.err);
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "not empty"));
  CHECK(contains(refused.err, "--force"));
  std::vector<std::string> forced = once;
  forced.emplace_back("--force");
  CHECK(vlmzoo(made.train("internvl", "used", forced)).code == 0);
  CHECK(read_file(used / "notes.txt") == "mine");
  // A head or a configuration of one's own is no run's, whatever it is called.
  for (const char* name : {"head.safetensors", "config.yaml", "report.html"}) {
    const fs::path own = made.folder / ("own_" + std::string(name));
    fs::create_directory(own);
    write_file(own / name, "mine");
    const Result kept = vlmzoo(made.train("internvl", own.filename().string(), forced));
    CAPTURE(kept.err);
    CHECK(kept.code == 2);
    CHECK(contains(kept.err, name));
    CHECK(read_file(own / name) == "mine");
  }

  const std::vector<std::string> endless = {"--set", "training.epochs=10000"};
  const pid_t child = start(made.jointly("internvl", "shared", endless), made.folder / "shared.log");
  wait_for_checkpoint(made.folder / "shared", child);
  for (const char* way : {"--resume", "--force"}) {
    std::vector<std::string> second = endless;
    second.emplace_back(way);
    const Result other = vlmzoo(made.jointly("internvl", "shared", second));
    CAPTURE(other.err);
    CHECK(other.code == 2);
    CHECK(contains(other.err, "another process"));
  }
  ::kill(child, SIGKILL);
  wait_for(child);

  // Trained on from its own result: the first model would be replaced by the second.
  REQUIRE(vlmzoo(made.jointly("internvl", "chain", once)).code == 0);
  std::vector<std::string> again = made.jointly("internvl", "chain", forced);
  again[2] = (made.folder / "chain" / "trained.yaml").string();
  const std::string before = tensors_of(made.folder / "chain" / "model" / "model.safetensors");
  const Result over = vlmzoo(again);
  CAPTURE(over.err);
  CHECK(over.code == 2);
  CHECK(contains(over.err, "another --output"));
  CHECK(tensors_of(made.folder / "chain" / "model" / "model.safetensors") == before);
  std::vector<std::string> head_only = made.train(
      "internvl", "chain", {"--force", "--set", "model.head=" + (made.folder / "chain" / "head.safetensors").string()});
  const Result head = vlmzoo(head_only);
  CAPTURE(head.err);
  CHECK(head.code == 2);
  CHECK(fs::exists(made.folder / "chain" / "head.safetensors"));
  // Begun anew, nothing of the old run is left; what isn't of a run stops it before anything is lost.
  write_file(made.folder / "chain" / "model" / "notes.txt", "mine");
  std::vector<std::string> frozen = forced;
  frozen.insert(frozen.end(), {"--set", "model.freeze_language_model=true"});
  const Result mine = vlmzoo(made.train("internvl", "chain", frozen));
  CAPTURE(mine.err);
  CHECK(mine.code == 2);
  CHECK(contains(mine.err, "notes.txt"));
  CHECK(fs::exists(made.folder / "chain" / "checkpoint.safetensors"));
  fs::remove(made.folder / "chain" / "model" / "notes.txt");
  CHECK(vlmzoo(made.train("internvl", "chain", frozen)).code == 0);
  CHECK(!fs::exists(made.folder / "chain" / "model"));
}

TEST_CASE("a role that no loss reaches isn't trained, and that is said with the reason") {
  const Material& made = material();
  const std::vector<std::string> settings = {"--set", "training.max_steps=1", "--set",
                                             "training.language_loss_weight=0", "--set"};
  for (const std::string role : {"model.freeze_connector=false", "model.freeze_language_model=false"}) {
    std::vector<std::string> more = settings;
    more.push_back(role);
    if (role.starts_with("model.freeze_connector"))
      more.insert(more.end(), {"--set", "model.freeze_language_model=true"});
    const std::string run = "unreached_" + std::to_string(more.size());
    const Result trained = vlmzoo(made.train("internvl", run, more));
    CAPTURE(trained.err);
    CHECK(trained.code == 0);
    CHECK(contains(trained.err, "no loss reaches connector and language model (training.language_loss_weight is 0)"));
    CHECK(!fs::exists(made.folder / run / "model"));
  }
}

TEST_CASE("what can't be trained is refused with the reason") {
  const Material& made = material();
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::vector<std::string>& parts) {
    const Result result = vlmzoo(arguments);
    CAPTURE(words(arguments));
    CAPTURE(result.err);
    CHECK(result.code == code);
    for (const std::string& part : parts) CHECK(contains(result.err, part));
  };
  const auto set = [&](const std::string& run, const std::vector<std::string>& settings) {
    std::vector<std::string> more;
    for (const std::string& setting : settings) {
      more.emplace_back("--set");
      more.push_back(setting);
    }
    return made.train("internvl", run, more);
  };
  refused(set("r1",
              {"training.cache_features=always", "training.augmentations=[flip]", "model.freeze_language_model=true"}),
          2, {"cache_features", "augmentations"});
  refused(set("r2", {"training.cache_features=always", "model.freeze_vision_encoder=false"}), 2,
          {"cache_features", "vision encoder"});
  refused(set("r3", {"training.batch_size=1"}), 2, {"batch_norm", "batch_size"});
  refused(set("r11", {"training.parallel_batches=true"}), 2, {"parallel_batches", "batch_norm", "dropout_rates"});
  refused(set("r12", {"training.parallel_batches=true", "training.gradient_accumulation_steps=1"}), 2,
          {"parallel_batches", "gradient_accumulation_steps", "batch_size"});
  refused(set("r13", {"training.parallel_batches=true", "training.memory_efficient=true"}), 2,
          {"parallel_batches", "memory_efficient"});
  refused(set("r4", {"training.fp16=true"}), 1, {"fp16", "bf16"});
  refused(set("r5", {"training.fp16=true", "training.bf16=true"}), 2, {"can't both be true"});
  refused(set("r6", {"model.classifier.hidden_dims=[4, 4]"}), 2, {"hidden_dims", "dropout_rates"});
  refused(set("r7", {"training.region_loss_weight=1"}), 2, {"frozen"});
  refused(set("r8", {"training.class_weights=[1, 2]"}), 2, {"2 entries for 3 classes"});
  refused(set("r9", {"training.augmentations=[blur]"}), 2, {"flip | rotate | brightness"});
  refused(set("r10", {"model.num_classes=2"}), 1, {"2"});
  refused(set("r14", {"training.classification_loss_weight=0", "training.language_loss_weight=0"}), 2,
          {"no loss", "classification_loss_weight", "language_loss_weight"});
  refused(made.train("internvl", "r16", {"--limit", "1"}), 1, {"two classes are needed"});
  refused(made.train("internvl", "r17", {"--limit", "-1"}), 2, {"--limit"});
  const fs::path data = made.folder / "without_region";
  fs::copy(made.folder / "data", data, fs::copy_options::recursive);
  const std::string regions = read_file(data / "regions.jsonl");
  write_file(data / "regions.jsonl", regions.substr(regions.find('\n') + 1));
  std::vector<std::string> arguments = made.jointly("internvl", "r18");
  arguments[4] = data.string();
  refused(arguments, 1, {"regions.jsonl has no entry for"});
  refused({"train", "--config", (made.folder / "internvl.yaml").string(), "--output", "x"}, 2, {"--data is missing"});

  REQUIRE(vlmzoo(made.train("internvl", "first", {"--set", "training.max_steps=1"})).code == 0);
  refused(made.train("internvl", "first", {"--set", "training.max_steps=1"}), 2, {"--resume", "--force"});
  refused(made.train("internvl", "first",
                     {"--resume", "--set", "training.max_steps=1", "--set", "training.learning_rate=0.5"}),
          2, {"training.learning_rate", "0.5"});
  refused(made.train("internvl", "first", {"--resume", "--set", "training.max_steps=1", "--limit", "12"}), 1,
          {"other data"});
  refused(made.train("internvl", "nothing_there", {"--resume"}), 1, {"no training run"});
}

TEST_CASE("a picture that breaks ends the run after a checkpoint, or is left out and counted once") {
  const Material& made = material();
  const fs::path data = made.folder / "broken_data";
  fs::copy(made.folder / "data", data, fs::copy_options::recursive);
  // One of either split.
  std::vector<std::string> names;
  std::istringstream rows(read_file(data / "labels.csv"));
  for (std::string line; std::getline(rows, line);) {
    for (const std::string split : {"train", "val"}) {
      if (line.ends_with("," + split) && std::ranges::count(names, split) == 0) {
        names.push_back(split);
        names.push_back(line.substr(0, line.find(',')));
        std::ofstream(data / line.substr(0, line.find(','))) << "no picture";
      }
    }
  }
  REQUIRE(names.size() == 4);
  std::vector<std::string> arguments =
      made.train("internvl", "broken", {"--set", "model.freeze_vision_encoder=false", "--set", "training.epochs=3"});
  arguments[4] = data.string();
  const Result stopped = vlmzoo(arguments);
  CAPTURE(stopped.err);
  CHECK(stopped.code == 1);
  CHECK(contains(stopped.err, names[1]));
  CHECK(contains(stopped.err, "--skip-bad"));
  CHECK_NOTHROW(SafetensorsFile(made.folder / "broken" / "checkpoint.safetensors"));
  arguments.emplace_back("--force");
  arguments.emplace_back("--skip-bad");
  const Result skipped = vlmzoo(arguments);
  CAPTURE(skipped.err);
  CHECK(skipped.code == 0);
  CHECK(contains(skipped.err, "2 samples were left out"));
  for (const std::size_t picture : {1, 3}) CHECK(count_of(skipped.err, names[picture]) == 1);
}

TEST_CASE("data of which no picture can be read is an error, also where bad ones are left out") {
  const Material& made = material();
  const fs::path data = made.folder / "unreadable";
  fs::copy(made.folder / "data", data, fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(data / "images")) std::ofstream(entry.path()) << "no picture";
  std::vector<std::string> arguments =
      made.train("internvl", "blind", {"--skip-bad", "--set", "model.freeze_vision_encoder=false"});
  arguments[4] = data.string();
  const Result result = vlmzoo(arguments);
  CAPTURE(result.err);
  CHECK(result.code == 1);
  CHECK(contains(result.err, "none of the 42 pictures of the training split could be read"));
  CHECK(!fs::exists(made.folder / "blind" / "model"));
}

}  // namespace vlmzoo::test
