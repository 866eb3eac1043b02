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
  CreateOptions wanted = options;
  if (!config.multimodal) wanted.roles = RoleSet::vision_only();
  Weights plan = folder.plan(config, wanted);
  // Reading a tokenizer takes as long as reading a gigabyte of weights: once, and not for vision alone.
  std::shared_ptr<const Tokenizer> tokenizer;
  if (options.plan_only || wanted.roles.language) {
    if (auto opened = Tokenizer::open(folder.path())) tokenizer = std::make_shared<const Tokenizer>(std::move(*opened));
  }
  auto planned = std::make_unique<InternVl>(folder, internvl, tokenizer, plan);
  plan.check();
  if (options.plan_only) return planned.release();
  check_memory(plan);
  planned.reset();
  Weights weights = Weights::load(plan);
  return std::make_unique<InternVl>(folder, internvl, tokenizer, weights).release();
}

constexpr const char* kModelTypes[] = {"internvl", "internvl_chat", nullptr};

}  // namespace
}  // namespace vlmzoo::internvl

VLMZOO_PLUGIN("internvl", "0.1.0", vlmzoo::internvl::kModelTypes, vlmzoo::internvl::kPresets, vlmzoo::internvl::create);
