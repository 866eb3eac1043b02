#pragma once

#include <memory>
#include <vector>

#include "internvl_config.hpp"
#include "prompt.hpp"
#include "vision_tower.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo::internvl {

/// InternVL2.5: InternViT, a two-layer connector, Qwen2. Image embeddings replace the <IMG_CONTEXT> tokens.
class InternVl final : public Model {
 public:
  /// `tokenizer` is null for a model that reads no prompts.
  InternVl(const ModelFolder& folder, const InternVlConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
           Weights& weights);

  const ModelInfo& info() const override { return info_; }
  const Parameters& parameters() const override { return parameters_; }
  ModelInputs preprocess(std::span<const Request> requests, bool vision_only) const override;
  ImageFeatures encode_images(const ModelInputs& inputs) const override;
  std::unique_ptr<KvCache> new_cache(std::int64_t batch, std::int64_t capacity) const override;
  TextOutput forward(const ModelInputs& inputs, const ImageFeatures* features, KvCache& cache,
                     std::int64_t logits_to_keep) const override;
  at::Tensor lm_head(const at::Tensor& hidden) const override;
  const Tokenizer* tokenizer() const override { return tokenizer_.get(); }

 private:
  void require_language() const;  ///< Error: kUnsupported after multimodal: false
  at::Tensor embed_tokens(const at::Tensor& ids, const ImageFeatures* features) const;
  void describe(const ModelFolder& folder);

  InternVlConfig config_;
  ModelInfo info_;
  Parameters parameters_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_{-1, -1, -1};
  VisionTower vision_;
  Connector connector_;
  at::Tensor embedding_;
  std::vector<DecoderLayer> layers_;
  RmsNorm norm_;
  Linear lm_head_;
  RotaryEmbedding rotary_;
  at::ScalarType text_type_;
};

}  // namespace vlmzoo::internvl
