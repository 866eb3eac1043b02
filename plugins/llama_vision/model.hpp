#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "cross_attention.hpp"
#include "llama_vision_config.hpp"
#include "prompt.hpp"
#include "vision_tower.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo::llama_vision {

/// Llama-3.2-Vision (Mllama): a tiled vision tower, one Linear, a Llama whose cross-attention layers look at the
/// pictures. Shapes: pixel_values [B, pictures, M, 3, S, S] with unused tiles 0; extra inputs aspect_ratio_ids [B,
/// pictures] (0: no picture), aspect_ratio_mask [B, pictures, M] and, with text, cross_attention_mask [B, L, pictures,
/// M]; image_embeds [I · M, P, H].
class LlamaVision final : public Model {
 public:
  /// `tokenizer` is null for a model that reads no prompts.
  LlamaVision(const ModelFolder& folder, const LlamaVisionConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
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
  void add_images(const at::Tensor& ids, const std::vector<std::int64_t>& lengths, const ImageFeatures* features,
                  CrossCache& cache) const;
  void describe(const ModelFolder& folder);

  LlamaVisionConfig config_;
  ModelInfo info_;
  Parameters parameters_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_;
  VisionTower vision_;
  Linear connector_;
  at::Tensor embedding_;
  std::vector<std::variant<DecoderLayer, CrossAttentionLayer>> layers_;
  RmsNorm norm_;
  Linear lm_head_;
  RotaryEmbedding rotary_;
  at::ScalarType connector_type_, text_type_;
};

}  // namespace vlmzoo::llama_vision
