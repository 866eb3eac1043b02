#include "vlmzoo/plugin.hpp"

#include <memory>

#include "internvl_config.hpp"
#include "model.hpp"
#include "presets.hpp"

namespace vlmzoo::internvl {
namespace {

Model* create(const ModelConfig& config, const CreateOptions& options) {
  const ModelFolder folder(config);
  const InternVlConfig internvl = InternVlConfig::read(folder, config);
  const auto builder = [&](std::shared_ptr<const Tokenizer> tokenizer, Weights& weights) {
    return std::make_unique<InternVl>(folder, internvl, std::move(tokenizer), weights);
  };
  return folder.build(config, options, builder).release();
}

constexpr const char* kModelTypes[] = {"internvl", "internvl_chat", nullptr};

}  // namespace
}  // namespace vlmzoo::internvl

VLMZOO_PLUGIN("internvl", "0.1.0", vlmzoo::internvl::kModelTypes, vlmzoo::internvl::kPresets, vlmzoo::internvl::create);
