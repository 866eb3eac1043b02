#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tiny_models.hpp"
#include "trace.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

/// Runs of an adapter's tiny checkpoints against the goldens of its reference: tests/goldens/<family>, made from the
/// same formula as `vlmzoo init` has (tests/reference).
namespace vlmzoo::test {

// max |a − b| / max(1, max |reference|) in fp32; pixel values after normalising.
inline constexpr double kTolerance = 1e-4, kPixelTolerance = 1e-6;

using Facts = std::map<std::string, std::string>;

inline Image picture(const std::string& name) {
  return load_image(std::filesystem::path(VLMZOO_TEST_DATA) / "data" / "images" / name);
}

inline at::Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry* entry = file.find(name);
  REQUIRE_MESSAGE(entry != nullptr, name);
  const at::ScalarType type = entry->dtype == DType::kI64 ? at::kLong : at::kFloat;
  at::Tensor tensor = at::empty(entry->shape, type);
  file.read(*entry, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
  return tensor;
}

inline double difference(const at::Tensor& ours, const at::Tensor& reference) {
  REQUIRE(ours.sizes() == reference.sizes());
  return (ours - reference).abs().max().item<double>() / std::max(1.0, reference.abs().max().item<double>());
}

inline const at::Tensor& named(const app::NamedTensors& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const auto& pair) { return pair.first == name; });
  REQUIRE_MESSAGE(found != tensors.end(), name);
  return found->second;
}

/// "1, 2, 3" or "1,2,3" -> numbers.
inline std::vector<std::int64_t> numbers_of(const std::string& text) {
  std::vector<std::int64_t> result;
  std::istringstream stream(text);
  for (std::string number; std::getline(stream, number, ',');) result.push_back(std::stoll(number));
  return result;
}

/// The rows or elements of `whole` that the golden kept.
inline at::Tensor thinned(const at::Tensor& whole, const std::string& name, const Facts& facts) {
  if (const auto shape = facts.find("shape." + name); shape != facts.end())
    REQUIRE(whole.sizes().vec() == numbers_of(shape->second));
  if (const auto step = facts.find("element_step." + name); step != facts.end())
    return whole.flatten().slice(0, 0, std::nullopt, std::stoll(step->second));
  const auto step = facts.find("row_step." + name);
  return step == facts.end() ? whole : whole.flatten(0, -2).slice(0, 0, std::nullopt, std::stoll(step->second));
}

/// SHA-256 of the 8-bit tiles [T, S, S, 3] of all pictures behind `pixels` [..., T, 3, S, S]; of each picture the first
/// `used` tiles count, where a picture has a fixed number.
inline std::string digest_of_tiles(const at::Tensor& pixels, const std::vector<std::int64_t>& used,
                                   const Json& processor) {
  const auto channels = [&](const char* key) {
    return at::tensor(processor.at(key).get<std::vector<double>>(), at::kDouble).view({3, 1, 1});
  };
  const at::Tensor values =
      ((pixels.to(at::kDouble) * channels("image_std") + channels("image_mean")) * 255).round().to(at::kByte);
  std::vector<at::Tensor> parts = {values};
  if (pixels.dim() > 4) {
    parts.clear();
    for (std::size_t i = 0; i < used.size(); ++i)
      parts.push_back(values.flatten(0, -5)[static_cast<std::int64_t>(i)].narrow(0, 0, used[i]));
  }
  const at::Tensor bytes = at::cat(parts, 0).permute({0, 2, 3, 1}).contiguous();
  return sha256({static_cast<const std::byte*>(bytes.const_data_ptr()), bytes.nbytes()});
}

inline Request request_of(const Json& run) {
  Request request;
  request.text = run.at("prompt").get<std::string>();
  for (const Json& image : run.at("images")) request.images.push_back(picture(image.get<std::string>()));
  return request;
}

inline void compare(const app::NamedTensors& ours, const SafetensorsFile& golden, const Json& processor) {
  for (const char* name : {"input_ids", "last_hidden_state", "logits", "generated_ids"})
    REQUIRE(golden.find(name) != nullptr);
  const Facts& facts = golden.metadata();
  for (const TensorEntry& entry : golden.entries()) {
    INFO(entry.name);
    const at::Tensor reference = tensor_of(golden, entry.name),
                     got = thinned(named(ours, entry.name), entry.name, facts);
    if (entry.dtype == DType::kI64) {
      CHECK(got.equal(reference));
    } else {
      CHECK(difference(got, reference) <= (entry.name == "pixel_values" ? kPixelTolerance : kTolerance));
    }
  }
  if (const auto digest = facts.find("tiles_sha256"); digest != facts.end()) {
    CHECK(digest_of_tiles(named(ours, "pixel_values"), numbers_of(facts.at("tiles_per_image")), processor) ==
          digest->second);
  }
}

/// The checkpoint that a manifest's case stands for.
inline std::filesystem::path golden_checkpoint(const std::string& family, const std::string& name, const Json& facts) {
  const Facts dtypes = {{"float32", "fp32"}, {"bfloat16", "bf16"}, {"float16", "fp16"}};
  return checkpoint(family + "/" + name, facts.at("seed").get<std::int64_t>(),
                    dtypes.at(facts.at("dtype").get<std::string>()));
}

/// Compares every run of tests/goldens/<family>; returns how many there were.
inline std::size_t compare_with_goldens(const std::string& family) {
  const std::filesystem::path tests = VLMZOO_TEST_DATA, goldens = tests / "goldens" / family;
  const Json manifest = read_json(goldens / "manifest.json");
  const auto new_tokens = manifest.at("max_new_tokens").get<std::int64_t>();
  std::size_t compared = 0;
  for (const auto& [name, facts] : manifest.at("cases").items()) {
    const auto model = open_model(golden_checkpoint(family, name, facts));
    const Json processor = read_json(tests / "data" / family / name / "preprocessor_config.json");
    for (const Json& run : manifest.at("runs")) {
      if (run.at("case") != name) continue;
      const std::string file = run.at("file").get<std::string>();
      CAPTURE(file);
      compare(app::record_run(*model, request_of(run), new_tokens), SafetensorsFile(goldens / file), processor);
      ++compared;
    }
  }
  return compared;
}

/// Logits of the prompt's last position.
inline at::Tensor logits_of(const Model& model, const Request& request) {
  return named(app::record_run(model, request, 1), "logits");
}

inline double cosine(const at::Tensor& a, const at::Tensor& b) {
  return (a.flatten().dot(b.flatten()) / (a.norm() * b.norm())).item<double>();
}

/// One backward pass through logits and image features; how many tensors of each role got a finite gradient.
inline std::map<Role, int> gradients_by_role(const ModelConfig& config, const Request& request) {
  CreateOptions options;
  options.trainable = true;
  const auto model = open_model(config, options);
  const ModelInputs inputs = model->preprocess({&request, 1});
  const ImageFeatures features = model->encode_images(inputs);
  const auto cache = model->new_cache(1, inputs.input_ids.size(1));
  const TextOutput output = model->forward(inputs, &features, *cache, /*logits_to_keep=*/4);
  (output.logits.square().mean() + features.last_hidden_state.square().mean()).backward();
  std::map<Role, int> counts;
  for (const Trainable& parameter : model->parameters().trainable) {
    CAPTURE(parameter.names.front());
    ++counts[parameter.role];
    REQUIRE(parameter.value.grad().defined());
    CHECK(parameter.value.grad().isfinite().all().item<bool>());
  }
  return counts;
}

}  // namespace vlmzoo::test
