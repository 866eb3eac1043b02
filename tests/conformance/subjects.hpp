#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tiny_models.hpp"
#include "vlmzoo/model.hpp"

/// What the conformance suite runs on: any plugin, with any tiny configuration of it, knowing nothing but model.hpp.
namespace vlmzoo::conformance {

/// fp32 sums of these lengths, taken in another order; relative to the largest expected value.
inline constexpr double kTolerance = 1e-5;
inline constexpr std::int64_t kSeed = 5;

/// One tiny configuration of one plugin.
struct Subject {
  std::string name;            ///< "internvl/release"
  std::string plugin;          ///< its name
  std::string model_type;      ///< canonical
  std::filesystem::path data;  ///< folder with config.json and what else belongs to it
};

/// Options of the command line: `--plugin-dir DIR` (repeatable; default: the plugins of this build) and `--config
/// FOLDER` (repeatable; default: every tests/data/<plugin>/<case>).
void read_arguments(int count, const char* const* arguments);

const Registry& registry();
const std::vector<Subject>& subjects();

/// Runs the statement behind it once for each subject, each as a subcase of its own.
#define FOR_EACH_SUBJECT(subject) \
  for (const Subject& subject : subjects()) SUBCASE(subject.name.c_str())

/// Its checkpoint, as `init` writes it with kSeed in fp32; made once in a run.
const std::filesystem::path& checkpoint(const Subject& subject);

/// fp32 on the CPU, seeded random weights.
ModelConfig config_of(const Subject& subject, std::int64_t seed = kSeed);
std::unique_ptr<Model> create(const Subject& subject, const ModelConfig& config, const CreateOptions& options = {});
std::unique_ptr<Model> create(const Subject& subject);

/// Prompts of different lengths: with one picture, without, and with two.
const std::vector<Request>& requests();

/// encode_images, or nothing for inputs without pictures.
std::unique_ptr<ImageFeatures> encode(const Model& model, const ModelInputs& inputs);
/// A prefill with a cache of its own.
TextOutput read(const Model& model, const ModelInputs& inputs, const ImageFeatures* features,
                std::int64_t logits_to_keep = 1);
/// encode and read.
TextOutput run(const Model& model, const ModelInputs& inputs, std::int64_t logits_to_keep = 1);

/// [n, C]: the valid tokens of one picture.
at::Tensor tokens_of(const ImageFeatures& features, std::size_t image);
/// [n, H]: hidden states of the real tokens of one prompt.
at::Tensor real_rows(const TextOutput& text, const ModelInputs& inputs, std::int64_t prompt);

}  // namespace vlmzoo::conformance
