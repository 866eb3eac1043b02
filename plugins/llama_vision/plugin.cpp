#include "vlmzoo/plugin.hpp"

#include <memory>

#include "llama_vision_config.hpp"
#include "model.hpp"
#include "presets.hpp"

namespace vlmzoo::llama_vision {
namespace {

Model* create(const ModelConfig& config, const CreateOptions& options) {
  const ModelFolder folder(config);
  const LlamaVisionConfig llama = LlamaVisionConfig::read(folder, config);
  CreateOptions wanted = options;
  if (!config.multimodal) wanted.roles = RoleSet::vision_only();
  Weights plan = folder.plan(config, wanted);
  // Reading a tokenizer takes as long as reading a gigabyte of weights: once, and not for vision alone.
  std::shared_ptr<const Tokenizer> tokenizer;
  if (options.plan_only || wanted.roles.language) {
    if (auto opened = Tokenizer::open(folder.path())) tokenizer = std::make_shared<const Tokenizer>(std::move(*opened));
  }
  auto planned = std::make_unique<LlamaVision>(folder, llama, tokenizer, plan);
  plan.check();
  if (options.plan_only) return planned.release();
  check_memory(plan);
  planned.reset();
  Weights weights = Weights::load(plan);
  return std::make_unique<LlamaVision>(folder, llama, tokenizer, weights).release();
}

constexpr const char* kModelTypes[] = {"llama-vision", "llama_vision", "mllama", nullptr};

}  // namespace
}  // namespace vlmzoo::llama_vision

VLMZOO_PLUGIN("llama_vision", "0.1.0", vlmzoo::llama_vision::kModelTypes, vlmzoo::llama_vision::kPresets,
              vlmzoo::llama_vision::create);
