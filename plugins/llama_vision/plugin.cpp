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
  const auto builder = [&](std::shared_ptr<const Tokenizer> tokenizer, Weights& weights) {
    return std::make_unique<LlamaVision>(folder, llama, std::move(tokenizer), weights);
  };
  return folder.build(config, options, builder).release();
}

constexpr const char* kModelTypes[] = {"llama-vision", "llama_vision", "mllama", nullptr};

}  // namespace
}  // namespace vlmzoo::llama_vision

VLMZOO_PLUGIN("llama_vision", "0.1.0", vlmzoo::llama_vision::kModelTypes, vlmzoo::llama_vision::kPresets,
              vlmzoo::llama_vision::create);
