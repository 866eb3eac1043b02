#include "vlmzoo/config.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "vlmzoo/error.hpp"
#include "vlmzoo/log.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;

namespace {

// A folder of configuration files, removed at the end.
class ConfigFolder {
 public:
  ConfigFolder() {
    std::string name = (fs::temp_directory_path() / "vlmzoo_config_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    folder_ = name;
  }
  ~ConfigFolder() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  ConfigFolder(const ConfigFolder&) = delete;
  ConfigFolder& operator=(const ConfigFolder&) = delete;

  fs::path write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }

 private:
  fs::path folder_;
};

// The message, with the folder's path cut out so that it begins with the file's name; "" when nothing was thrown.
struct Failure {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

Failure failure_of(const fs::path& path, const std::vector<std::string>& overrides = {}) {
  try {
    path.empty() ? default_config(overrides) : load_config(path, overrides);
  } catch (const Error& error) {
    std::string message = error.what();
    const std::string folder = path.parent_path().string() + "/";
    for (std::size_t at = 0; path.has_parent_path() && (at = message.find(folder)) != std::string::npos;) {
      message.erase(at, folder.size());
    }
    return {error.code(), message};
  }
  return {};
}

// kConfig is asserted; the result is the message.
std::string refusal_of(const std::string& yaml) {
  const ConfigFolder folder;
  const Failure failure = failure_of(folder.write("a.yaml", yaml));
  CAPTURE(yaml);
  if (failure.message.empty()) return "";
  CHECK(failure.code == ErrorCode::kConfig);
  return failure.message;
}

std::string override_refusal(const std::string& text) {
  const Failure failure = failure_of({}, {text});
  CAPTURE(text);
  if (failure.message.empty()) return "";
  CHECK(failure.code == ErrorCode::kConfig);
  return failure.message;
}

Config config_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  const ConfigFolder folder;
  return load_config(folder.write("a.yaml", yaml), overrides);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string repeated(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

std::string nested_lists(int depth) { return "model: " + repeated("[", depth) + repeated("]", depth) + "\n"; }

// What `work` writes to stderr.
template <class Work>
std::string stderr_of(const Work& work) {
  const ConfigFolder folder;
  const fs::path path = folder.write("stderr", "");
  std::fflush(stderr);
  const int saved = ::dup(STDERR_FILENO);
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  ::dup2(::fileno(file), STDERR_FILENO);
  work();
  ::dup2(saved, STDERR_FILENO);
  ::close(saved);
  std::fclose(file);
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("an empty file, a file of comments and no file give the same defaults") {
  const std::string defaults = default_config().resolved;
  for (const char* yaml : {"", "\n", "# nothing\n", "---\n", "model:\n", "{}", "\xEF\xBB\xBF# with a mark\n"}) {
    CAPTURE(yaml);
    CHECK(config_of(yaml).resolved == defaults);
  }
  const Config config = default_config();
  CHECK(config.model.model_type == kDefaultModelType);
  CHECK(config.model.num_classes == 3);
  CHECK(config.model.classifier.hidden_dims == std::vector<std::int64_t>{768, 256});
  CHECK(config.model.freeze_vision_encoder);
  CHECK(config.training.learning_rate == 5.0e-5);
  CHECK(config.generation.max_new_tokens == 50);
  CHECK(config.origins.empty());
}

TEST_CASE("every value is read into its field, with its line") {
  const Config config = config_of(R"(model:
  model_type: Llama-Vision
  pretrained_path: org/name
  pretrained: false
  seed: 7
  device: cuda:1
  precision: {vision: fp32, language: int8}
  multimodal: false
  freeze_language_model: true
  image_pipeline: clip
  max_tiles: 6
  system_prompt: ""
  num_labels: 2
  id2label: {0: cat, "1": "dog, wet"}
  classifier:
    hidden_dims: [12]
    dropout_rates: [0]
    batch_norm: false
    activation: relu
training:
  epochs: 3
  learning_rate: 1e-3
  weight_decay: .5
  bf16: true
generation:
  max_length: 9
  temperature: 0
  top_p: 1
  stop: ["\n", "</s>"]
)");
  CHECK(config.model.model_type == "llama-vision");
  CHECK(config.model.pretrained_path == "org/name");
  CHECK_FALSE(config.model.pretrained);
  CHECK(config.model.seed == 7);
  CHECK(config.model.device == "cuda:1");
  CHECK(config.model.precision.vision == Precision::kFp32);
  CHECK(config.model.precision.connector == Precision::kAuto);
  CHECK(config.model.precision.language == Precision::kInt8);
  CHECK_FALSE(config.model.multimodal);
  CHECK(config.model.freeze_language_model);
  CHECK(config.model.image_pipeline == "clip");
  CHECK(config.model.max_tiles == 6);
  CHECK(config.model.system_prompt == "");
  CHECK(config.model.num_classes == 2);
  CHECK(config.model.class_names == std::vector<std::string>{"cat", "dog, wet"});
  CHECK(config.model.classifier.hidden_dims == std::vector<std::int64_t>{12});
  CHECK(config.model.classifier.dropout_rates == std::vector<double>{0});
  CHECK_FALSE(config.model.classifier.batch_norm);
  CHECK(config.model.classifier.activation == "relu");
  CHECK(config.training.epochs == 3);
  CHECK(config.training.learning_rate == 1e-3);
  CHECK(config.training.weight_decay == 0.5);
  CHECK(config.training.bf16);
  CHECK(config.generation.max_new_tokens == 9);
  CHECK(config.generation.temperature == 0);
  CHECK(config.generation.top_p == 1);
  CHECK(config.generation.stop == std::vector<std::string>{"\n", "</s>"});
  CHECK(config.origins.at("model.model_type").ends_with("a.yaml:2"));
  CHECK(config.origins.at("model.num_classes").ends_with("a.yaml:13"));
  CHECK(config.origins.at("generation.stop").ends_with("a.yaml:29"));
}

TEST_CASE("a JSON file is a configuration too") {
  const Config config =
      config_of(R"({"model":{"num_labels":2,"id2label":{"0":"no","1":"yes"}},"training":{"epochs":4}})");
  CHECK(config.model.class_names == std::vector<std::string>{"no", "yes"});
  CHECK(config.training.epochs == 4);
}

TEST_CASE("the resolved text names every key and reads back as the same configuration") {
  const std::string strange = "quote \" backslash \\ line\\nbreak \\t # : {} \u00e9\u4e2d\U0001F600 true";
  const Config first = config_of(
      "model: {model_type: x, pretrained_path: \"a b: #c\", precision: {vision: int8, connector: fp16}, max_tiles: 3,\n"
      " system_prompt: '" +
      strange +
      "', label2id: {'null': 1, 'true': 0, '3': 2}, head: ~, multimodal: false,\n"
      " classifier: {hidden_dims: [], dropout_rates: []}}\n"
      "training: {learning_rate: 0.1234567890123456789, weight_decay: 1e-300, fp16: true}\n"
      "generation: {stop: [\"\\n\\x01\\x7f\", 'it''s'], seed: 9223372036854775807, top_p: 0.30000000000000004}\n");
  CHECK(first.model.system_prompt == strange);
  const Config second = config_of(first.resolved);
  CHECK(second.resolved == first.resolved);
  CHECK(second.model.system_prompt == strange);
  CHECK(second.model.pretrained_path == "a b: #c");
  CHECK(second.model.class_names == std::vector<std::string>{"true", "null", "3"});
  CHECK(second.model.precision.connector == Precision::kFp16);
  CHECK(second.model.precision.language == Precision::kAuto);
  CHECK(second.model.classifier.hidden_dims.empty());
  CHECK_FALSE(second.model.freeze_vision_encoder);
  CHECK(second.training.learning_rate == first.training.learning_rate);
  CHECK(second.training.weight_decay == 1e-300);
  CHECK(second.generation.stop == std::vector<std::string>{"\n\x01\x7f", "it's"});
  CHECK(second.generation.seed == 9223372036854775807);
  CHECK(second.generation.top_p == 0.30000000000000004);
  // Each key that the first text doesn't mention is there all the same.
  for (const char* key : {"model.seed", "model.use_8bit", "model.classifier.activation", "training.low_cpu_mem_usage",
                          "training.max_length", "generation.repetition_penalty", "model.system_prompt"}) {
    CAPTURE(key);
    CHECK(second.origins.contains(key));
  }
}

TEST_CASE("the example configurations in configs/ load") {
  const fs::path examples = fs::path(__FILE__).parent_path() / "../../configs";
  if (!fs::exists(examples)) {
    MESSAGE("skipped: ", examples.string(), " is not where this test was compiled");
    return;
  }
  // Their values are the defaults, as they say.
  const std::vector<std::string> internvl = {"model.pretrained_path=OpenGVLab/InternVL2_5-1B"};
  CHECK(load_config(examples / "internvl.yaml").resolved == default_config(internvl).resolved);
  const std::vector<std::string> llama = {"model.model_type=llama-vision",
                                          "model.pretrained_path=meta-llama/Llama-3.2-11B-Vision-Instruct"};
  CHECK(load_config(examples / "llama_vision.yaml").resolved == default_config(llama).resolved);
}

TEST_CASE("an unknown key is refused with its place, its full path and what was probably meant") {
  CHECK(refusal_of("model:\n\n  modle_type: x\n") ==
        "a.yaml:3: unknown key 'model.modle_type'; did you mean 'model.model_type'?");
  CHECK(refusal_of("modell: {}\n") == "a.yaml:1: unknown key 'modell'; did you mean 'model'?");
  CHECK(refusal_of("num_classes: 3\n") == "a.yaml:1: unknown key 'num_classes'; did you mean 'model.num_classes'?");
  CHECK(refusal_of("model: {learning_rate: 1}") ==
        "a.yaml:1: unknown key 'model.learning_rate'; did you mean 'training.learning_rate'?");
  CHECK(refusal_of("model: {precision: {visoin: fp32}}") ==
        "a.yaml:1: unknown key 'model.precision.visoin'; did you mean 'model.precision.vision'?");
  CHECK(refusal_of("zzzzzz: 1\n") ==
        "a.yaml:1: unknown key 'zzzzzz'; known here: model, training, generation, extends");
  CHECK(contains(refusal_of("training:\n  mixup: 0.1\n"), "a.yaml:2: unknown key 'training.mixup'"));
  CHECK(contains(refusal_of("model.num_classes: 3\n"), "nested below each other, not joined by dots"));
  CHECK(contains(refusal_of("'': 3\n"), "a.yaml:1: unknown key ''"));
  CHECK(contains(refusal_of("'': {'': {model: {seed: 1}}}\n"), "a.yaml:1: unknown key ''"));
  // A key of a megabyte neither hangs the search nor fills the screen.
  CHECK(refusal_of("? " + std::string(900'000, 'k') + "\n: 1\n").size() < 400);
}

TEST_CASE("a value of the wrong type is refused with its place, its path, what is expected and what is there") {
  CHECK(refusal_of("model:\n  num_classes: three\n") == "a.yaml:2: model.num_classes must be an integer, got 'three'");
  CHECK(refusal_of("model:\n  num_classes:\n   - 3\n") == "a.yaml:2: model.num_classes must be an integer, got a list");
  CHECK(refusal_of("model:\n  num_classes: {a: 3}\n") == "a.yaml:2: model.num_classes must be an integer, got a map");
  CHECK(refusal_of("model:\n  num_classes:\n") == "a.yaml:2: model.num_classes must be an integer, got nothing");
  CHECK(refusal_of("model:\n  num_classes: \"3\"\n") ==
        "a.yaml:2: model.num_classes must be an integer, got the text '3'");
  CHECK(refusal_of("model: text\n") ==
        "a.yaml:1: model must be a map of keys (model_type, pretrained_path, pretrained, seed, device, precision, "
        "use_8bit, multimodal, freeze_vision_encoder, freeze_language_model, "
        "freeze_connector, head, image_pipeline, max_tiles, "
        "system_prompt, num_classes, num_labels, id2label, label2id, classifier, trust_remote_code), got 'text'");
  CHECK(contains(refusal_of("training: [1]\n"), "a.yaml:1: training must be a map of keys"));
  CHECK(contains(refusal_of("model: {classifier: 3}\n"), "a.yaml:1: model.classifier must be a map of keys"));
}

TEST_CASE("integers are decimal and whole") {
  for (const char* bad : {"3.0", "012", "0x10", "0o17", "1_000", "1e3", "true", "+", "--1", "3 4", ".inf", "'3'"}) {
    CAPTURE(bad);
    CHECK(contains(refusal_of("training: {epochs: " + std::string(bad) + "}"),
                   "a.yaml:1: training.epochs must be an integer, got "));
  }
  CHECK(config_of("training: {epochs: +4, warmup_steps: -0}").training.epochs == 4);
  CHECK(refusal_of("training: {epochs: 99999999999999999999}") ==
        "a.yaml:1: training.epochs must be an integer between 1 and 1000000, got '99999999999999999999'");
  CHECK(refusal_of("model: {seed: -1}") == "a.yaml:1: model.seed must be an integer of at least 0, got '-1'");
}

TEST_CASE("numbers are finite decimals") {
  for (const char* bad : {".nan", ".inf", "-.inf", "nan", "inf", "infinity", "0x1p3", "1e", "e5", "--1", "+-1", "1.2.3",
                          "'0.5'", "true", "[0.5]", "~", "1,5", "."}) {
    CAPTURE(bad);
    const std::string yaml = "training:\n  learning_rate: " + std::string(bad) + "\n";
    CHECK(contains(refusal_of(yaml), "a.yaml:2: training.learning_rate must be a finite number, got "));
  }
  CHECK(contains(refusal_of("training: {learning_rate: 1e999}"), "must be a number above 0 and at most 100"));
  CHECK(config_of("training: {learning_rate: +5.E-1, weight_decay: 1}").training.learning_rate == 0.5);
}

TEST_CASE("booleans are true or false and nothing else") {
  for (const char* bad : {"yes", "no", "on", "True", "FALSE", "1", "0", "'true'", "~", "[]", "{}"}) {
    CAPTURE(bad);
    CHECK(contains(refusal_of("model: {use_8bit: " + std::string(bad) + "}"),
                   "a.yaml:1: model.use_8bit must be true or false, got "));
  }
}

TEST_CASE("text that YAML takes for something else has to be in quotes") {
  for (const char* bad : {"true", "3", "2.5", "1e3", "[a]", "{a: b}"}) {
    CAPTURE(bad);
    CHECK(contains(refusal_of("model: {pretrained_path: " + std::string(bad) + "}"),
                   "a.yaml:1: model.pretrained_path must be text"));
  }
  CHECK(config_of("model: {pretrained_path: \"3\"}").model.pretrained_path == "3");
  CHECK(contains(refusal_of("generation: {stop: end}"), "a.yaml:1: generation.stop must be a list, got 'end'"));
  CHECK(contains(refusal_of("generation: {stop: [a, 1]}"), "a.yaml:1: generation.stop[1] must be text"));
  CHECK(contains(refusal_of("generation: {stop: [\"\"]}"),
                 "a.yaml:1: generation.stop[0] must be text that is not empty"));
}

TEST_CASE("values out of range are refused") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"model: {num_classes: 1}", "model.num_classes must be an integer between 2 and 10000, got '1'"},
      {"model: {num_classes: 10001}", "model.num_classes must be an integer between 2 and 10000"},
      {"model: {max_tiles: 0}", "model.max_tiles must be an integer between 1 and 64"},
      {"model: {max_tiles: 65}", "model.max_tiles must be an integer between 1 and 64"},
      {"model: {device: gpu}", "model.device must be auto | cpu | cuda | cuda:N, got 'gpu'"},
      {"model: {device: 'cuda:'}", "model.device must be"},
      {"model: {device: 'cuda:01'}", "model.device must be"},
      {"model: {device: 'cuda:-1'}", "model.device must be"},
      {"model: {image_pipeline: native | clip}", "model.image_pipeline must be native | clip, got 'native | clip'"},
      {"model: {image_pipeline: '|'}", "model.image_pipeline must be native | clip"},
      {"model: {image_pipeline: ''}", "model.image_pipeline must be native | clip"},
      {"model: {precision: fp8}", "model.precision must be auto | fp32 | bf16 | fp16 | int8, got 'fp8'"},
      {"model: {precision: {vision: ~}}",
       "model.precision.vision must be auto | fp32 | bf16 | fp16 | int8, got nothing"},
      {"model: {precision: [fp32]}", "model.precision must be auto | fp32 | bf16 | fp16 | int8, got a list"},
      {"model: {classifier: {activation: GELU}}", "model.classifier.activation must be gelu | relu | silu | tanh"},
      {"model: {classifier: {type: probe}}", "model.classifier.type must be mlp | linear, got 'probe'"},
      {"model: {classifier: {features: text}}", "model.classifier.features must be vision | multimodal"},
      {"model: {classifier: {pooling: max}}", "model.classifier.pooling must be model | mean | attention"},
      {"model: {classifier: {prompt: ''}}", "model.classifier.prompt must be text that is not empty"},
      {"model: {classifier: {hidden_dims: [0, 1]}}", "model.classifier.hidden_dims[0] must be an integer between 1"},
      {"model: {classifier: {hidden_dims: [1, 65537]}}",
       "model.classifier.hidden_dims[1] must be an integer between 1"},
      {"model: {classifier: {hidden_dims: 768}}", "model.classifier.hidden_dims must be a list, got '768'"},
      {"model: {classifier: {dropout_rates: [0.1, 1]}}",
       "model.classifier.dropout_rates[1] must be a number of at least 0 and below 1, got '1'"},
      {"model: {classifier: {dropout_rates: [-0.1, 0]}}", "model.classifier.dropout_rates[0] must be a number"},
      {"training: {learning_rate: 0}", "training.learning_rate must be a number above 0"},
      {"training: {batch_size: 0}", "training.batch_size must be an integer between 1"},
      {"generation: {temperature: -0.1}", "generation.temperature must be a number of at least 0"},
      {"generation: {top_p: 0}", "generation.top_p must be a number above 0 and at most 1"},
      {"generation: {top_p: 1.01}", "generation.top_p must be a number above 0 and at most 1"},
      {"generation: {top_k: -1}", "generation.top_k must be an integer between 0"},
      {"generation: {repetition_penalty: 0}", "generation.repetition_penalty must be a number above 0"},
  };
  for (const auto& [yaml, message] : cases) {
    const std::string refusal = refusal_of(yaml);
    CAPTURE(yaml);
    CAPTURE(refusal);
    CHECK(refusal.starts_with("a.yaml:1: " + message));
  }
}

TEST_CASE("each hidden layer needs one dropout rate") {
  CHECK(refusal_of("model:\n  classifier:\n    hidden_dims: [1, 2, 3]\n") ==
        "a.yaml:3: model.classifier.hidden_dims has 3 entries and model.classifier.dropout_rates (default) has 2; each "
        "hidden layer needs one rate");
  CHECK(contains(refusal_of("model:\n  classifier: {dropout_rates: []}\n"), "a.yaml:2: "));
}

TEST_CASE("multimodal features need the language model, and are pooled by nothing") {
  const Config config = config_of("model: {classifier: {features: multimodal, prompt: 'How many?', type: linear}}");
  CHECK(config.model.classifier.prompt == "How many?");
  CHECK(config.model.classifier.type == "linear");
  CHECK(refusal_of("model:\n  multimodal: false\n  classifier: {features: multimodal}\n") ==
        "a.yaml:3: model.classifier.features: multimodal needs the language model, but model.multimodal (a.yaml:2) is "
        "false; set it to true, or take vision features");
  CHECK(refusal_of("model:\n  classifier:\n    features: multimodal\n    pooling: attention\n") ==
        "a.yaml:4: model.classifier.pooling: attention pools the features of vision, but model.classifier.features "
        "(a.yaml:3) is multimodal, one hidden state per picture; leave one of them out");
  CHECK(config_of("model: {classifier: {features: multimodal, pooling: model}}").model.classifier.prompt ==
        ClassifierConfig{}.prompt);
}

TEST_CASE("class names are complete, different, and as many as num_classes") {
  CHECK(config_of("model: {id2label: {1: b, 0: a}}").model.num_classes == 2);
  CHECK(config_of("model: {label2id: {b: 1, a: 0}, num_classes: 2}").model.class_names ==
        std::vector<std::string>{"a", "b"});
  CHECK(config_of("model: {id2label: {0: a, 1: b}, label2id: {a: 0, b: 1}}").model.num_classes == 2);
  CHECK(refusal_of("model:\n  num_classes: 5\n  id2label: {0: a, 1: b}\n") ==
        "a.yaml:2: model.num_classes is 5, but model.id2label (a.yaml:3) names 2 classes");
  CHECK(contains(refusal_of("model: {id2label: {0: a, 1: b}, label2id: {b: 0, a: 1}}"), "two names of one setting"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, 2: b}}"), "a.yaml:1: model.id2label has 2; the 2 classes"));
  CHECK(contains(refusal_of("model: {id2label: {1: a, 2: b}}"), "numbered 0 to 1"));
  CHECK(contains(refusal_of("model: {label2id: {a: 1, b: 1}}"), "model.label2id has 1 twice"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, 1: a}}"), "model.id2label gives the name 'a' to 0 and 1"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, 1: ''}}"), "model.id2label has an empty name"));
  CHECK(contains(refusal_of("model: {id2label: {0: a}}"), "must name between 2 and 10000 classes, got 1"));
  CHECK(contains(refusal_of("model: {id2label: {a: 0, b: 1}}"), "a key of model.id2label must be an integer"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, -1: b}}"), "a key of model.id2label must be an integer"));
  CHECK(
      contains(refusal_of("model: {id2label: {0: a, 00: b}}"), "a key of model.id2label must be an integer, got '00'"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, 1: [b]}}"), "model.id2label.1 must be text"));
  CHECK(contains(refusal_of("model: {label2id: {a: 0, b: one}}"), "model.label2id.b must be an integer, got 'one'"));
  CHECK(contains(refusal_of("model: {id2label: [a, b]}"), "model.id2label must be a map of numbers to names"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, 99999999999999999999: b}}"), "a key of model.id2label must be"));
}

TEST_CASE("two names of one key may agree, but not differ") {
  CHECK(config_of("model: {num_classes: 4, num_labels: 4}").model.num_classes == 4);
  CHECK(refusal_of("model:\n  num_labels: 5\n  num_classes: 4\n") ==
        "a.yaml:3: model.num_classes and model.num_labels (a.yaml:2) are two names of one setting and differ; keep one "
        "of "
        "them");
  CHECK(contains(refusal_of("generation: {max_new_tokens: 4, max_length: 5}"), "two names of one setting and differ"));
  CHECK(contains(refusal_of("model: {num_labels: three}"), "model.num_labels must be an integer, got 'three'"));
}

TEST_CASE("freezing the vision encoder follows multimodal unless it is said") {
  CHECK(config_of("model: {multimodal: true}").model.freeze_vision_encoder);
  CHECK_FALSE(config_of("model: {multimodal: false}").model.freeze_vision_encoder);
  CHECK(config_of("model: {multimodal: false, freeze_vision_encoder: true}").model.freeze_vision_encoder);
  CHECK_FALSE(config_of("model: {freeze_vision_encoder: false}").model.freeze_vision_encoder);
}

TEST_CASE("use_8bit means int8 for connector and language, and contradicts another precision there") {
  const RolePrecision precision = config_of("model: {use_8bit: true}").model.precision;
  CHECK(precision.vision == Precision::kAuto);
  CHECK(precision.connector == Precision::kInt8);
  CHECK(precision.language == Precision::kInt8);
  CHECK(config_of("model: {use_8bit: true, precision: int8}").model.precision.vision == Precision::kInt8);
  CHECK(config_of("model: {use_8bit: true, precision: {vision: fp32}}").model.precision.vision == Precision::kFp32);
  CHECK(config_of("model: {use_8bit: false, precision: bf16}").model.precision.language == Precision::kBf16);
  const std::string refusal = refusal_of("model:\n  use_8bit: true\n  precision: bf16\n");
  CHECK(contains(refusal, "a.yaml:2: model.use_8bit: true asks for int8"));
  CHECK(contains(refusal, "model.precision (a.yaml:3) for bf16"));
  CHECK_FALSE(refusal_of("model: {use_8bit: true, precision: {language: fp16}}").empty());
}

TEST_CASE("fp16 and bf16 exclude each other") {
  CHECK(refusal_of("training:\n  bf16: true\n  fp16: true\n") ==
        "a.yaml:3: training.fp16 and training.bf16 (a.yaml:2) can't both be true");
}

TEST_CASE("settings without effect are accepted and said to have none, once") {
  const LogLevel level = log_level();
  set_log_level(LogLevel::kInfo);
  const std::string said = stderr_of([] {
    for (int i = 0; i < 2; ++i) {
      CHECK(config_of("model: {trust_remote_code: true}\ntraining: {torch_compile: true}").training.torch_compile);
      config_of("model: {trust_remote_code: false}\ntraining: {torch_compile: false}");
    }
  });
  set_log_level(level);
  for (const std::string key : {"model.trust_remote_code", "training.torch_compile"}) {
    const std::size_t first = said.find(key);
    CAPTURE(said);
    REQUIRE(first != std::string::npos);
    CHECK(said.find(key, first + 1) == std::string::npos);
  }
  CHECK(contains(refusal_of("model: {trust_remote_code: 1}"), "model.trust_remote_code must be true or false"));
}

TEST_CASE("what is not a map of keys is refused") {
  CHECK(refusal_of("- model\n- training\n") ==
        "a.yaml:1: a configuration must be a map of keys (model, training, generation, extends), got a list");
  CHECK(contains(refusal_of("Hello, World\n"), "got 'Hello, World'"));
  CHECK(contains(refusal_of("model: {}\n---\nmodel: {}\n"), "a.yaml:2: a second YAML document"));
  for (const char* bad :
       {"model: [", "model: {a", "model: ]", "a: b: c", "model:\n  seed: 1\n   device: cpu\n", "}", "@", "model: 'x",
        "%YAML 9.9\n---\nmodel: {}\n", "model: \"\\ud800\"", "a: - b", "model: `x`"}) {
    CAPTURE(bad);
    const std::string refusal = refusal_of(bad);
    CAPTURE(refusal);
    CHECK(refusal.starts_with("a.yaml:"));
    CHECK(contains(refusal, "not valid YAML"));
  }
}

TEST_CASE("binary files, tabs and other encodings are refused by name") {
  using namespace std::string_literals;
  CHECK(refusal_of("model:\n\tseed: 1\n") == "a.yaml:2: the line begins with a tab; YAML is indented with spaces");
  CHECK(config_of("model:\t# tab\n  seed:\t1\n").model.seed == 1);
  CHECK(contains(refusal_of("model: {}\n\x7f"
                            "ELF\x02\x01\x01\x00\x00\x00"s),
                 "a.yaml:2: control character 0x02"));
  CHECK(contains(refusal_of("model:\x04 {bogus: 1}\n"), "control character 0x04"));
  CHECK(contains(refusal_of("model: {pretrained_path: \"a\\0b\"}\n"), "zero byte"));
  CHECK(contains(refusal_of("a: 1\nb: \xff\xfe\n"), "a.yaml:2: the text is not UTF-8"));
  CHECK(contains(refusal_of("\xff\xfem\0o\0d\0"s), "a.yaml:1: the text is not UTF-8"));
  CHECK(contains(refusal_of("m\0o\0d\0e\0l\0:\0"s), "control character 0x00"));
  std::string junk;
  for (unsigned i = 0; i < 5000; ++i) junk += static_cast<char>(i * 2654435761U >> 24U);
  CHECK(refusal_of(junk).starts_with("a.yaml:1: "));
}

TEST_CASE("anchors, aliases, tags and strange keys are refused") {
  CHECK(contains(refusal_of("model: &base\n  seed: 1\n"), "a.yaml:1: anchors (&name) and aliases"));
  CHECK(contains(refusal_of("model: *base\n"), "a.yaml:1: "));
  CHECK(contains(refusal_of("model:\n  seed: !!int \"1\"\n"), "a.yaml:2: YAML tags are not read"));
  CHECK(contains(refusal_of("model: !foo {}\n"), "a.yaml:1: YAML tags are not read: '!foo'"));
  CHECK(contains(refusal_of("? [model]\n: 1\n"), "a.yaml:1: a key has to be text"));
  CHECK(contains(refusal_of("? {model: 1}\n: 1\n"), "a.yaml:1: a key has to be text"));
  CHECK(contains(refusal_of("model:\n  ? [a]\n  : b\n  ? [c]\n  : b\n"), "a.yaml:2: a key has to be text"));
  CHECK(contains(refusal_of("~: 1\n"), "a.yaml:1: a key has to be text"));
  CHECK(contains(refusal_of("model:\n  <<: {seed: 1}\n"), "a.yaml:2: unknown key 'model.<<'"));
  // Billion laughs: refused at the first anchor, before anything can grow.
  std::string laughs = "a0: &a0 [lol, lol]\n";
  for (int i = 1; i < 40; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + before + ", " + before + "]\n";
  }
  CHECK(contains(refusal_of(laughs), "a.yaml:1: anchors"));
}

TEST_CASE("a key that is given twice is refused with both lines") {
  CHECK(refusal_of("model:\n  seed: 1\n  device: cpu\n  seed: 1\n") ==
        "a.yaml:4: duplicate key 'model.seed' (first on line 2)");
  CHECK(contains(refusal_of("model: {}\nmodel: {}\n"), "a.yaml:2: duplicate key 'model' (first on line 1)"));
  CHECK(contains(refusal_of("model: {id2label: {0: a, \"0\": b}}\n"), "duplicate key 'model.id2label.0'"));
}

TEST_CASE("deep nesting and large files are refused") {
  CHECK(contains(refusal_of(nested_lists(31)), "a.yaml:1: model must be a map of keys"));
  CHECK(refusal_of(nested_lists(32)) == "a.yaml:1: nested deeper than 32 levels");
  for (const std::string opening : {"[", "{", "- ", "? ", "{a: ", "[[],", "a: [", "[a,\n"}) {
    CAPTURE(opening);
    const std::string refusal = refusal_of(repeated(opening, 100'000));
    CAPTURE(refusal);
    CHECK(contains(refusal, ": nested deeper than 32 levels"));
  }
  CHECK(refusal_of("model: {}\n" + std::string((1U << 20U), '#')) ==
        "a.yaml: larger than 1 MB; this is no configuration");
}

TEST_CASE("extends: the file overrides its base key by key") {
  const ConfigFolder folder;
  folder.write("base/base.yaml",
               "model:\n  seed: 1\n  num_classes: 7\n  precision: bf16\n  classifier:\n"
               "    activation: relu\n    batch_norm: false\n");
  folder.write("middle.yaml", "extends: base/base.yaml\nmodel:\n  seed: 2\n  precision: {vision: fp32}\n");
  const fs::path top =
      folder.write("top.yaml", "model:\n  num_labels: 4\n  classifier: {activation: tanh}\nextends: middle.yaml\n");
  const Config config = load_config(top);
  CHECK(config.model.seed == 2);
  CHECK(config.model.num_classes == 4);
  CHECK(config.model.precision.vision == Precision::kFp32);
  CHECK(config.model.precision.language == Precision::kBf16);
  CHECK(config.model.classifier.activation == "tanh");
  CHECK_FALSE(config.model.classifier.batch_norm);
  CHECK(config.origins.at("model.seed").ends_with("middle.yaml:3"));
  CHECK(config.origins.at("model.classifier.batch_norm").ends_with("base/base.yaml:7"));

  // A contradiction across files names both of them.
  const fs::path bad = folder.write("bad.yaml", "extends: middle.yaml\nmodel:\n  use_8bit: true\n");
  const Failure failure = failure_of(bad);
  CHECK(failure.code == ErrorCode::kConfig);
  CHECK(failure.message.starts_with("bad.yaml:3: "));
  CHECK(contains(failure.message, "middle.yaml:4"));
}

TEST_CASE("extends: a missing base, a cycle, a long chain and a wrong value are refused") {
  const ConfigFolder folder;
  Failure failure = failure_of(folder.write("a.yaml", "model: {}\nextends: none.yaml\n"));
  CHECK(failure.code == ErrorCode::kNotFound);
  CHECK(failure.message == "a.yaml:2: extends 'none.yaml', which does not exist (looked for none.yaml)");

  failure = failure_of(folder.write("self.yaml", "extends: ./self.yaml\n"));
  CHECK(failure.code == ErrorCode::kConfig);
  CHECK(contains(failure.message, "self.yaml:1: extends"));
  CHECK(contains(failure.message, "leads back here"));

  folder.write("two.yaml", "extends: one.yaml\n");
  failure = failure_of(folder.write("one.yaml", "extends: two.yaml\n"));
  CHECK(failure.code == ErrorCode::kConfig);
  CHECK(failure.message == "two.yaml:1: extends 'one.yaml', which leads back here");

  folder.write("0.yaml", "model: {seed: 5}\n");
  for (int i = 1; i <= 9; ++i) {
    folder.write(std::to_string(i) + ".yaml", "extends: " + std::to_string(i - 1) + ".yaml\n");
  }
  CHECK(load_config(folder / "8.yaml").model.seed == 5);
  failure = failure_of(folder / "9.yaml");
  CHECK(failure.code == ErrorCode::kConfig);
  CHECK(contains(failure.message, "1.yaml:1: extends more than 8 files in a row"));

  for (const char* bad : {"extends: [0.yaml]\n", "extends: 3\n", "extends:\n", "extends: ''\n", "extends: {a: b}\n"}) {
    CAPTURE(bad);
    CHECK(contains(refusal_of(bad), "a.yaml:1: extends must be "));
  }
}

TEST_CASE("a file that isn't there or is a folder is refused") {
  const ConfigFolder folder;
  const Failure failure = failure_of(folder / "none.yaml");
  CHECK(failure.code == ErrorCode::kNotFound);
  CHECK(failure.message.starts_with("none.yaml: "));
  fs::create_directory(folder / "sub");
  CHECK_FALSE(failure_of(folder / "sub").message.empty());
}

TEST_CASE("overrides win over the file, the last one over the others") {
  const Config config = config_of("model:\n  num_classes: 4\n  precision: fp16\n",
                                  {"model.num_labels=5", "model.num_classes=6", "model.precision.vision=fp32",
                                   "generation.stop=[a, \"b=c\"]", "model.id2label={}", "model.system_prompt=a=b"});
  CHECK(config.model.num_classes == 6);
  CHECK(config.model.precision.vision == Precision::kFp32);
  CHECK(config.model.precision.language == Precision::kFp16);
  CHECK(config.generation.stop == std::vector<std::string>{"a", "b=c"});
  CHECK(config.model.system_prompt == "a=b");
  CHECK(config.origins.at("model.num_classes") == "--set model.num_classes=6");
  CHECK(config_of("model: {max_tiles: 4}", {"model.max_tiles=null"}).model.max_tiles == std::nullopt);
  CHECK(config_of("model: {id2label: {0: a, 1: b}}", {"model={num_classes: 2, seed: 3}"}).model.seed == 3);
}

TEST_CASE("an override that can't be right is refused, itself in front") {
  CHECK(override_refusal("model.num_classes=three") ==
        "--set model.num_classes=three: model.num_classes must be an integer, got 'three'");
  CHECK(override_refusal("model.modle_type=x") ==
        "--set model.modle_type=x: unknown key 'model.modle_type'; did you mean 'model.model_type'?");
  CHECK(contains(override_refusal("num_classes=5"),
                 "--set num_classes=5: unknown key 'num_classes'; did you mean "
                 "'model.num_classes'?"));
  CHECK(contains(override_refusal("model.num_classes"), "--set model.num_classes: expected key.path=value"));
  CHECK(contains(override_refusal(""), "expected key.path=value"));
  CHECK(contains(override_refusal("=5"), "a part of the key is empty"));
  CHECK(contains(override_refusal("model.=5"), "a part of the key is empty"));
  CHECK(contains(override_refusal(".model=5"), "a part of the key is empty"));
  CHECK(contains(override_refusal("model..seed=5"), "a part of the key is empty"));
  CHECK(contains(override_refusal("model.num_classes.deep=5"), "model.num_classes must be an integer, got a map"));
  CHECK(contains(override_refusal("model=5"), "model must be a map of keys"));
  CHECK(contains(override_refusal("model.seed="), "model.seed must be an integer, got nothing"));
  CHECK(contains(override_refusal("model.seed=[1"), "--set model.seed=[1: not valid YAML"));
  CHECK(contains(override_refusal("model.seed=&a 1"), "anchors"));
  CHECK(contains(override_refusal("model.seed=\xff"), "not UTF-8"));
  CHECK(contains(override_refusal("model\xff.seed=1"), "unknown key"));
  CHECK(contains(override_refusal("extends=a.yaml"), "extends belongs in a file"));
  CHECK(contains(override_refusal(repeated("a.", 100'000) + "a=1"), "more parts than any known one"));
  CHECK(override_refusal("model.seed=" + std::string(100'000, 'x')).size() < 400);
}

TEST_CASE("relative paths resolve against the file that holds them when they exist there") {
  const ConfigFolder folder;
  folder.write("base/models/x/config.json", "{}");
  folder.write("base/base.yaml", "model: {pretrained_path: models/x, head: ../heads/h.safetensors}\n");
  folder.write("heads/h.safetensors", "");
  const fs::path top = folder.write("top.yaml", "extends: base/base.yaml\n");
  const Config config = load_config(top);
  CHECK(config.model.pretrained_path == (folder / "base/models/x").string());
  CHECK(config.model.head == (folder / "heads/h.safetensors").string());
  // Stored elsewhere, the resolved text still means the same.
  CHECK(load_config(folder.write("elsewhere/resolved.yaml", config.resolved)).resolved == config.resolved);
  // What doesn't exist beside the file stays as it is: it may be a name in the hub cache.
  const std::vector<std::string> other = {"model.pretrained_path=org/name", "model.head=/no/such/file"};
  CHECK(load_config(top, other).model.pretrained_path == "org/name");
  CHECK(load_config(top, other).model.head == "/no/such/file");
  // `..` behind a symbolic link follows the link.
  folder.write("far/away/deep/file", "");
  folder.write("far/away/head", "");
  fs::create_directory_symlink(folder / "far/away/deep", folder / "link");
  const Config linked = load_config(folder.write("l.yaml", "model: {head: link/../head}\n"));
  CHECK(fs::equivalent(linked.model.head, folder / "far/away/head"));
}

TEST_CASE("a head may lie in the folder of its checkpoint, whichever that is in the end") {
  const ConfigFolder folder;
  folder.write("a/config.json", "{}");
  folder.write("b/config.json", "{}");
  const fs::path file =
      folder.write("x.yaml", "model:\n  pretrained_path: a\n  head: ${model.pretrained_path}/h.safetensors\n");
  CHECK(load_config(file).model.head == (folder / "a/h.safetensors").string());
  const std::vector<std::string> other = {"model.pretrained_path=" + (folder / "b").string()};
  CHECK(load_config(file, other).model.head == (folder / "b/h.safetensors").string());
  CHECK(failure_of(file, {"model.pretrained_path=nowhere"}).code == ErrorCode::kNotFound);
  CHECK(contains(refusal_of("model:\n  head: ${model.pretrained_path}/h\n"),
                 "a.yaml:2: model.head is '${model.pretrained_path}/h', but model.pretrained_path is not set"));
}

TEST_CASE("precisions have their names, and another name says where it stood") {
  for (const char* name : {"auto", "fp32", "bf16", "fp16", "int8"}) {
    CHECK(to_string(parse_precision(name, "--precision")) == name);
  }
  try {
    parse_precision("float16", "--precision");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::kConfig);
    CHECK(std::string(error.what()) == "--precision must be auto | fp32 | bf16 | fp16 | int8, got 'float16'");
  }
}
