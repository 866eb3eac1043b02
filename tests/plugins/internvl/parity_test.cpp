// The InternVL adapter against goldens of the reference (tests/reference/make_goldens.py): the checkpoints are made by
// `vlmzoo init` from the same formula as there.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <filesystem>
#include <map>

#include "tiny_models.hpp"
#include "trace.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using test::checkpoint, test::open_model, test::registry;

namespace {

// max |a − b| / max(1, max |reference|) in fp32; pixel values after normalising.
constexpr double kTolerance = 1e-4, kPixelTolerance = 1e-6;

const fs::path kTests = VLMZOO_TEST_DATA;

at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry* entry = file.find(name);
  REQUIRE_MESSAGE(entry != nullptr, name);
  const at::ScalarType type = entry->dtype == DType::kI64 ? at::kLong : at::kFloat;
  at::Tensor tensor = at::empty(entry->shape, type);
  file.read(*entry, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return tensor;
}

double relative_difference(const at::Tensor& ours, const at::Tensor& reference) {
  REQUIRE(ours.sizes() == reference.sizes());
  return (ours - reference).abs().max().item<double>() / std::max(1.0, reference.abs().max().item<double>());
}

/// The rows or elements of `whole` that the golden kept.
at::Tensor thinned(const at::Tensor& whole, const std::string& name, const std::map<std::string, std::string>& facts) {
  if (const auto step = facts.find("element_step." + name); step != facts.end())
    return whole.flatten().slice(0, 0, std::nullopt, std::stoll(step->second));
  const auto step = facts.find("row_step." + name);
  return step == facts.end() ? whole : whole.flatten(0, -2).slice(0, 0, std::nullopt, std::stoll(step->second));
}

Request request_of(const Json& run) {
  Request request;
  request.text = run.at("prompt").get<std::string>();
  for (const Json& image : run.at("images"))
    request.images.push_back(load_image(kTests / "data" / "images" / image.get<std::string>()));
  return request;
}

void compare(const app::NamedTensors& ours, const SafetensorsFile& golden) {
  for (const char* name : {"input_ids", "last_hidden_state", "logits", "generated_ids"})
    REQUIRE(golden.find(name) != nullptr);
  for (const TensorEntry& entry : golden.entries()) {
    const auto found =
        std::find_if(ours.begin(), ours.end(), [&](const auto& pair) { return pair.first == entry.name; });
    REQUIRE_MESSAGE(found != ours.end(), entry.name);
    const at::Tensor reference = tensor_of(golden, entry.name),
                     got = thinned(found->second, entry.name, golden.metadata());
    INFO(entry.name);
    if (entry.dtype == DType::kI64) {
      CHECK(got.equal(reference));
    } else {
      CHECK(relative_difference(got, reference) <= (entry.name == "pixel_values" ? kPixelTolerance : kTolerance));
    }
  }
}

}  // namespace

TEST_CASE("InternVL gives the reference's pixels, token ids, hidden states, logits and greedy answers") {
  const c10::AutoGradMode no_grad(false);
  const Json manifest = read_json(kTests / "goldens" / "internvl" / "manifest.json");
  const auto new_tokens = manifest.at("max_new_tokens").get<std::int64_t>();
  std::size_t compared = 0;
  for (const auto& [name, facts] : manifest.at("cases").items()) {
    const std::map<std::string, std::string> dtypes = {{"float32", "fp32"}, {"bfloat16", "bf16"}, {"float16", "fp16"}};
    const std::string dtype = dtypes.at(facts.at("dtype").get<std::string>());
    const auto model = open_model(checkpoint(name, facts.at("seed").get<std::int64_t>(), dtype));
    for (const Json& run : manifest.at("runs")) {
      if (run.at("case") != name) continue;
      const std::string file = run.at("file").get<std::string>();
      CAPTURE(file);
      compare(app::record_run(*model, request_of(run), new_tokens),
              SafetensorsFile(kTests / "goldens" / "internvl" / file));
      ++compared;
    }
  }
  CHECK(compared == 56);  // every run that the goldens hold
}

TEST_CASE("a checkpoint gives the same numbers in shards and in 16-bit files") {
  const c10::AutoGradMode no_grad(false);
  const Request request{"How many receipts are there?", {load_image(kTests / "data" / "images" / "landscape.jpg")}};
  const auto logits_of = [&](const fs::path& folder) {
    for (const auto& [name, tensor] : app::record_run(*open_model(folder), request, 1)) {
      if (name == "logits") return tensor;
    }
    return at::Tensor();
  };
  const at::Tensor whole = logits_of(checkpoint("release", 0));
  CHECK(logits_of(checkpoint("release", 0, "fp32", "--max-shard-size 200KB")).equal(whole));
  // Rounding the weights to 8 or 11 bits moves the logits by no more than the rounding itself, some layers deep.
  CHECK(relative_difference(logits_of(checkpoint("release", 0, "bf16")), whole) < 0.1);
  CHECK(relative_difference(logits_of(checkpoint("release", 0, "fp16")), whole) < 0.02);
}

TEST_CASE("every precision stays near fp32") {
  const c10::AutoGradMode no_grad(false);
  const fs::path folder = checkpoint("release", 0);
  const Request request{"How many receipts are there?", {load_image(kTests / "data" / "images" / "portrait.jpg")}};
  std::map<std::string, at::Tensor> logits;
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp16, Precision::kInt8}) {
    for (const auto& [name, tensor] : app::record_run(*open_model(folder, precision), request, 1)) {
      if (name == "logits") logits[to_string(precision)] = tensor.flatten();
    }
  }
  const auto cosine = [&](const std::string& name) {
    const at::Tensor &a = logits.at(name), &b = logits.at("fp32");
    return (a.dot(b) / (a.norm() * b.norm())).item<double>();
  };
  CHECK(cosine("fp16") > 0.99999);
  CHECK(cosine("bf16") > 0.999);
  CHECK(cosine("int8") > 0.99);
}

TEST_CASE("roles that the configuration freezes get no gradients, all others finite ones") {
  ModelConfig config;
  config.pretrained_path = checkpoint("release", 0).string();
  const Request request{"How many receipts are there?", {load_image(kTests / "data" / "images" / "portrait.jpg")}};
  for (const bool vision : {false, true}) {
    config.freeze_vision_encoder = !vision;
    config.freeze_language_model = vision;
    CreateOptions options;
    options.trainable = true;
    const auto model = registry().create_model(config, options);
    const ModelInputs inputs = model->preprocess({&request, 1});
    const ImageFeatures features = model->encode_images(inputs);
    const auto cache = model->new_cache(1, inputs.input_ids.size(1));
    const TextOutput output = model->forward(inputs, &features, *cache, /*logits_to_keep=*/4);
    (output.logits.square().mean() + features.pooler_output.square().mean()).backward();
    std::map<Role, int> counts;
    for (const Trainable& parameter : model->parameters().trainable) {
      CAPTURE(parameter.names.front());
      ++counts[parameter.role];
      REQUIRE(parameter.value.grad().defined());
      CHECK(parameter.value.grad().isfinite().all().item<bool>());
    }
    CHECK((counts[Role::kVision] > 0) == vision);
    CHECK((counts[Role::kLanguage] > 0) == !vision);
    CHECK(counts[Role::kConnector] > 0);
  }
}
