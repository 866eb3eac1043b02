#include "vlmzoo/model_folder.hpp"

#include <fmt/format.h>

#include "vlmzoo/error.hpp"

namespace vlmzoo {
RoleSet trainable_roles(const ModelConfig& config) {
  RoleSet roles;
  roles.vision = !config.freeze_vision_encoder;
  roles.language = config.multimodal && !config.freeze_language_model;
  roles.connector = config.multimodal && !config.freeze_connector.value_or(!roles.vision && !roles.language);
  return roles;
}

ModelFolder::ModelFolder(const ModelConfig& config) {
  if (config.pretrained_path.empty()) {
    throw Error(ErrorCode::kConfig,
                "model.pretrained_path is not set; give the folder of a Hugging Face checkpoint or its name in the "
                "local hub cache (org/name)");
  }
  path_ = resolve_pretrained_path(config.pretrained_path);
  const std::filesystem::path file = path_ / "config.json";
  if (!std::filesystem::exists(file)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} has no config.json, so it is no Hugging Face checkpoint; download the whole folder",
                            path_.string()));
  }
  config_ = read_json(file);
  if (config.pretrained) checkpoint_ = std::make_unique<Checkpoint>(path_);
}

Json ModelFolder::optional_json(const std::string& name) const {
  const std::filesystem::path file = path_ / name;
  return std::filesystem::exists(file) ? read_json(file) : Json::object();
}

Json ModelFolder::image_processor() const {
  Json processor = optional_json("preprocessor_config.json");
  if (!processor.empty()) return processor;
  const Json outer = optional_json("processor_config.json");
  const auto inner = outer.find("image_processor");
  return inner != outer.end() && inner->is_object() ? *inner : Json::object();
}

std::vector<TokenId> ModelFolder::stop_ids() const {
  const Json generation = optional_json("generation_config.json");
  const auto found = generation.find("eos_token_id");
  if (found == generation.end() || found->is_null()) return {};
  std::vector<TokenId> ids;
  for (const Json& id : found->is_array() ? *found : Json::array({*found})) {
    if (!id.is_number_integer()) {
      throw Error(ErrorCode::kConfig, fmt::format("{}: eos_token_id must be an integer or a list of them, got {}",
                                                  (path_ / "generation_config.json").string(), found->dump()));
    }
    ids.push_back(id.get<TokenId>());
  }
  return ids;
}

Weights ModelFolder::plan(const ModelConfig& config, const CreateOptions& options) const {
  Weights::Source source;
  source.checkpoint = checkpoint_.get();
  source.seed = config.seed;
  source.device = resolve_device(config.device);
  source.precision = resolve_precision(config, source.device);
  source.roles = options.roles;
  if (options.trainable) {
    source.trainable = trainable_roles(config);
    source.precision = training_precision(source.precision, source.trainable);
  }
  return Weights::plan(source);
}

std::unique_ptr<Model> ModelFolder::build(const ModelConfig& config, const CreateOptions& options,
                                          const Builder& builder) const {
  CreateOptions wanted = options;
  if (!config.multimodal) wanted.roles = RoleSet::vision_only();
  Weights planned = plan(config, wanted);
  // Reading a tokenizer takes as long as reading a gigabyte of weights: once, and not for vision alone.
  std::shared_ptr<const Tokenizer> tokenizer;
  if (options.plan_only || wanted.roles.language) {
    if (auto opened = Tokenizer::open(path_)) tokenizer = std::make_shared<const Tokenizer>(std::move(*opened));
  }
  std::unique_ptr<Model> model = builder(tokenizer, planned);
  planned.check();
  if (options.plan_only) return model;
  check_memory(planned, model->info().working_memory);
  model.reset();
  Weights weights = Weights::load(planned);
  return builder(tokenizer, weights);
}

}  // namespace vlmzoo
