#include "model.hpp"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>

#include "image_processor.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::internvl {

InternVl::InternVl(const ModelFolder& folder, const InternVlConfig& config, std::shared_ptr<const Tokenizer> tokenizer,
                   Weights& weights)
    : config_(config),
      tokenizer_(std::move(tokenizer)),
      vision_(weights, config),
      connector_(weights, config),
      text_type_(weights.activation_type(Role::kLanguage)) {
  const Role role = Role::kLanguage;
  const DecoderConfig& text = config_.text;
  const std::string& prefix = config_.names.text;
  embedding_ = weights.embedding(role, prefix + "embed_tokens.weight", {text.vocab_size, text.hidden_size});
  for (std::int64_t i = 0; i < text.layers; ++i)
    layers_.emplace_back(weights, text, fmt::format("{}layers.{}.", prefix, i), i);
  norm_ = {weights.tensor(role, prefix + "norm.weight", {text.hidden_size}), text.rms_norm_eps};
  if (text.tie_word_embeddings) {
    lm_head_ = weights.tied_linear(role, embedding_);
    weights.ignore(config_.names.lm_head + ".weight");
  } else {
    lm_head_ = weights.linear(role, {config_.names.lm_head}, text.hidden_size, {text.vocab_size}, /*bias=*/false);
  }
  rotary_ = RotaryEmbedding(text.rotary, text.head_dim, weights.device());
  parameters_ = weights.parameters();
  describe(folder);
}

void InternVl::describe(const ModelFolder& folder) {
  if (tokenizer_)
    special_ = SpecialTokens::find(*tokenizer_, config_, fmt::format("the tokenizer in {}", folder.path().string()));
  const VisionConfig& vision = config_.vision;
  const DecoderConfig& text = config_.text;
  info_.model_type = "internvl";
  info_.architecture = config_.architecture;
  info_.num_features = vision.hidden_size;
  info_.text_hidden_size = text.hidden_size;
  info_.vocab_size = text.vocab_size;
  info_.context_length = text.max_position_embeddings;
  info_.image_size = config_.image.tile_size;
  info_.max_tiles = config_.image.max_tiles;
  info_.tokens_per_tile = config_.tokens_per_tile;
  info_.stop_ids = folder.stop_ids();
  info_.answer_end = special_.turn_end;  // a released generation_config.json names <|im_start|> first
  for (const TokenId id : {special_.turn_end, special_.end_of_text}) {
    if (id >= 0 && std::find(info_.stop_ids.begin(), info_.stop_ids.end(), id) == info_.stop_ids.end())
      info_.stop_ids.push_back(id);
  }
  info_.facts = {
      {"vision",
       fmt::format("InternViT: {} layers of {}, {} heads, MLP {}, patch {}{}", vision.layers, vision.hidden_size,
                   vision.heads, vision.intermediate_size, vision.patch_size, vision.rms_norm ? ", RMSNorm" : "")},
      {"connector", fmt::format("pixel shuffle 1/{}, {} -> {}", config_.downsample,
                                vision.hidden_size * config_.downsample * config_.downsample, text.hidden_size)},
      {"language", fmt::format("Qwen2: {} layers of {}, {} heads, {} key heads, MLP {}, {} embeddings", text.layers,
                               text.hidden_size, text.heads, text.kv_heads, text.intermediate_size,
                               text.tie_word_embeddings ? "tied" : "untied")},
      {"picture", fmt::format("{0} to {1} tiles of {2}×{2}{3}, {4} tokens each", config_.image.min_tiles,
                              config_.image.max_tiles, config_.image.tile_size,
                              config_.image.thumbnail && config_.image.max_tiles > 1 ? " and a thumbnail" : "",
                              config_.tokens_per_tile)}};
}

ModelInputs InternVl::preprocess(std::span<const Request> requests, bool vision_only) const {
  ModelInputs inputs;
  std::vector<Image> tiles;
  std::vector<std::vector<TokenId>> prompts;
  for (const Request& request : requests) {
    std::vector<std::int64_t> counts;
    for (const Image& image : request.images) {
      std::vector<Image> pieces = make_tiles(image, config_.image);
      counts.push_back(static_cast<std::int64_t>(pieces.size()));
      std::move(pieces.begin(), pieces.end(), std::back_inserter(tiles));
    }
    inputs.tiles_per_image.insert(inputs.tiles_per_image.end(), counts.begin(), counts.end());
    if (vision_only) continue;
    prompts.push_back(encode_prompt(require_tokenizer(tokenizer_.get()), config_, request.text, counts));
    if (const auto length = static_cast<std::int64_t>(prompts.back().size()); length > info_.context_length) {
      throw Error(ErrorCode::kUsage, fmt::format("the prompt has {} tokens, the model's context is {}; shorten it, or "
                                                 "lower model.max_tiles (each tile is {} tokens)",
                                                 length, info_.context_length, config_.tokens_per_tile));
    }
  }
  if (!tiles.empty()) inputs.pixel_values = normalize_tiles(tiles, config_.image.scale);
  if (!vision_only) pad_prompts(prompts, inputs);
  return inputs;
}

ImageFeatures InternVl::encode_images(const ModelInputs& inputs) const {
  ImageFeatures features;
  features.tiles_per_image = inputs.tiles_per_image;
  features.last_hidden_state = vision_(inputs.pixel_values);
  if (connector_) features.image_embeds = connector_(features.last_hidden_state);
  std::vector<at::Tensor> pooled;
  std::int64_t first = 0;
  for (const std::int64_t count : inputs.tiles_per_image) {  // CLS of every tile, then their mean
    pooled.push_back(features.last_hidden_state.narrow(0, first, count).select(1, 0).to(at::kFloat).mean(0));
    first += count;
  }
  features.pooler_output = at::stack(pooled);
  return features;
}

void InternVl::require_language() const {
  if (!embedding_.defined())
    throw Error(ErrorCode::kUnsupported, "this model was loaded without its language part (multimodal: false)");
}

std::unique_ptr<KvCache> InternVl::new_cache(std::int64_t batch, std::int64_t capacity) const {
  require_language();
  const DecoderConfig& text = config_.text;
  return std::make_unique<KvCache>(KvCacheShape{text.layers, batch, capacity, text.kv_heads, text.head_dim}, text_type_,
                                   embedding_.device());
}

at::Tensor InternVl::embed_tokens(const at::Tensor& ids, const ImageFeatures* features) const {
  at::Tensor embedded = embedding_.index_select(0, ids).to(text_type_);
  if (features == nullptr || !features->image_embeds.defined()) return embedded;
  const at::Tensor places = ids.eq(special_.image_context).nonzero().squeeze(1);
  if (places.size(0) != features->image_embeds.size(0)) {
    throw Error(ErrorCode::kMismatch, fmt::format("the prompt has places for {} image tokens, the pictures give {}",
                                                  places.size(0), features->image_embeds.size(0)));
  }
  return embedded.index_copy(0, places, features->image_embeds.to(text_type_));
}

TextOutput InternVl::forward(const ModelInputs& inputs, const ImageFeatures* features, KvCache& cache,
                             std::int64_t logits_to_keep) const {
  require_language();
  const auto on_device = [&](const at::Tensor& t) { return t.defined() ? t.to(embedding_.device()) : t; };
  const PackedTokens tokens = pack_tokens(on_device(inputs.input_ids), on_device(inputs.attention_mask), cache);
  const TokenRows rows = {tokens.lengths, rotary_.tables(tokens.positions)};
  at::Tensor hidden = embed_tokens(tokens.ids, features);
  for (const DecoderLayer& layer : layers_) hidden = layer(hidden, rows, cache);
  for (std::size_t i = 0; i < tokens.lengths.size(); ++i)
    cache.advance(static_cast<std::int64_t>(i), tokens.lengths[i]);
  hidden = norm_(hidden);
  return {unpack_rows(hidden, tokens), lm_head(last_rows(hidden, tokens, logits_to_keep))};
}

at::Tensor InternVl::lm_head(const at::Tensor& hidden) const {
  require_language();
  return lm_head_(hidden.to(text_type_)).to(at::kFloat);
}

}  // namespace vlmzoo::internvl
