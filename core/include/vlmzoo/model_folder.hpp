#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo {

/// The roles that a configuration leaves to training.
VLMZOO_API RoleSet trainable_roles(const ModelConfig& config);

/// The folder of one checkpoint, as every adapter begins with it. Errors: kNotFound for a missing path, a folder
/// without config.json, or (with `pretrained: true`) without weights.
class VLMZOO_API ModelFolder {
 public:
  explicit ModelFolder(const ModelConfig& config);

  const std::filesystem::path& path() const { return path_; }
  JsonView config() const { return {config_, (path_ / "config.json").string()}; }
  /// An optional JSON file beside it; an empty object when absent.
  Json optional_json(const std::string& name) const;
  /// Settings of the image processor: preprocessor_config.json, else processor_config.json's `image_processor`; an
  /// empty object when neither is there.
  Json image_processor() const;
  const Checkpoint* checkpoint() const { return checkpoint_.get(); }  ///< null with `pretrained: false`

  /// Ids of `eos_token_id` in generation_config.json, one or many; none when absent.
  std::vector<TokenId> stop_ids() const;

  /// The first pass over the weights: resolved device and precision, nothing read yet.
  Weights plan(const ModelConfig& config, const CreateOptions& options) const;

  /// Makes the model in two passes of `builder`: over the plan, which finds everything wrong with the checkpoint before
  /// anything is read (with `plan_only` that is the model), then over the data if it fits into memory. The tokenizer is
  /// null where the folder has none and where only vision is wanted, as with `multimodal: false`.
  using Builder = std::function<std::unique_ptr<Model>(std::shared_ptr<const Tokenizer> tokenizer, Weights& weights)>;
  std::unique_ptr<Model> build(const ModelConfig& config, const CreateOptions& options, const Builder& builder) const;

 private:
  std::filesystem::path path_;
  Json config_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

}  // namespace vlmzoo
