#include "model.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>

#include "image_processor.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::llama_vision {
namespace {

std::int64_t aspect_ratio_id(const Grid& grid, std::int64_t max_tiles) {
  const std::vector<Grid> grids = supported_grids(max_tiles);
  return 1 + (std::find(grids.begin(), grids.end(), grid) - grids.begin());
}

/// Of one picture: its features, the widest intermediate result and, with `text`, what the text model looks at; in
/// fp32.
std::uint64_t working_memory(const LlamaVisionConfig& config, bool text) {
  const VisionConfig& vision = config.vision;
  const DecoderConfig& decoder = config.text;
  const std::int64_t tokens = vision.max_tiles * ((vision.tokens() + 7) / 8 * 8);
  const auto crossing = static_cast<std::int64_t>(config.cross_attention_layers.size());
  const std::int64_t seen = decoder.hidden_size + 2 * crossing * decoder.kv_heads * decoder.head_dim;
  const std::int64_t width = vision.output_size() + 2 * vision.intermediate_size + (text ? seen : 0);
  return static_cast<std::uint64_t>(tokens * width) * sizeof(float) + 100'000'000;
}

std::size_t most_images(std::span<const Request> requests) {
  std::size_t most = 0;
  for (const Request& request : requests) most = std::max(most, request.images.size());
  return most;
}

/// Which tiles every token may look at, [L, pictures, M], for the reader; the model itself needs no mask.
void fill_cross_attention_mask(const std::vector<TokenId>& ids, TokenId image_token, const at::Tensor& tile_mask,
                               const at::Tensor& mask) {
  VisibleImages visible;
  for (std::size_t row = 0; row < ids.size(); ++row) {
    visible.step(ids[row] == image_token);
    const std::int64_t count = visible.end() - visible.begin();
    mask.select(0, static_cast<std::int64_t>(row))
        .narrow(0, visible.begin(), count)
        .copy_(tile_mask.narrow(0, visible.begin(), count));
  }
}

}  // namespace

LlamaVision::LlamaVision(const ModelFolder& folder, const LlamaVisionConfig& config,
                         std::shared_ptr<const Tokenizer> tokenizer, Weights& weights)
    : config_(config),
      tokenizer_(std::move(tokenizer)),
      vision_(weights, config),
      connector_type_(weights.activation_type(Role::kConnector)),
      text_type_(weights.activation_type(Role::kLanguage)) {
  const Role role = Role::kLanguage;
  const DecoderConfig& text = config_.text;
  const std::string& prefix = config_.names.text;
  connector_ = weights.linear(Role::kConnector, {config_.names.connector}, config_.vision.output_size(),
                              {text.hidden_size}, /*bias=*/true);
  embedding_ =
      weights.embedding(role, prefix + "embed_tokens.weight", {text.vocab_size + kExtraEmbeddings, text.hidden_size});
  std::size_t crossing = 0;
  for (std::int64_t i = 0; i < text.layers; ++i) {
    const std::string name = fmt::format("{}layers.{}.", prefix, i);
    if (std::ranges::find(config_.cross_attention_layers, i) != config_.cross_attention_layers.end()) {
      layers_.emplace_back(CrossAttentionLayer(weights, text, name, crossing++));
    } else {
      layers_.emplace_back(DecoderLayer(weights, text, name, i - static_cast<std::int64_t>(crossing)));
    }
  }
  norm_ = {weights.tensor(role, prefix + "norm.weight", {text.hidden_size}), text.rms_norm_eps};
  lm_head_ = weights.linear(role, {config_.names.lm_head}, text.hidden_size, {text.vocab_size}, /*bias=*/false);
  rotary_ = RotaryEmbedding(text.rotary, text.head_dim, weights.device());
  parameters_ = weights.parameters();
  describe(folder);
}

void LlamaVision::describe(const ModelFolder& folder) {
  if (tokenizer_)
    special_ = SpecialTokens::find(*tokenizer_, config_, fmt::format("the tokenizer in {}", folder.path().string()));
  const VisionConfig& vision = config_.vision;
  const DecoderConfig& text = config_.text;
  info_.model_type = "llama-vision";
  info_.architecture = config_.architecture;
  info_.num_features = vision.output_size();
  info_.text_hidden_size = text.hidden_size;
  info_.vocab_size = text.vocab_size;
  info_.context_length = text.max_position_embeddings;
  info_.image_size = vision.image_size;
  info_.max_tiles = config_.image.max_tiles;
  info_.tokens_per_tile = vision.tokens();
  info_.working_memory = working_memory(config_, /*text=*/tokenizer_ != nullptr);
  info_.stop_ids = folder.stop_ids();
  if (info_.stop_ids.empty() && tokenizer_) info_.stop_ids = default_stop_ids(*tokenizer_);
  if (tokenizer_)
    info_.answer_end = tokenizer_->id_of(config_.instruct ? "<|eot_id|>" : "<|end_of_text|>").value_or(-1);
  info_.facts = {
      {"vision", fmt::format("Mllama: {} local and {} global layers of {}, {} heads, MLP {}, patch {}, {} intermediate "
                             "states",
                             vision.layers, vision.global_layers, vision.hidden_size, vision.heads,
                             vision.intermediate_size, vision.patch_size, vision.intermediate_layers.size())},
      {"connector", fmt::format("{} -> {}", vision.output_size(), text.hidden_size)},
      {"language", fmt::format("Llama: {} layers of {}, {} of them cross-attention, {} heads, {} key heads, MLP {}",
                               text.layers, text.hidden_size, config_.cross_attention_layers.size(), text.heads,
                               text.kv_heads, text.intermediate_size)},
      {"picture", fmt::format("1 to {0} tiles of {1}×{1}, {2} tokens each, seen by cross-attention; one token in the "
                              "prompt",
                              config_.image.max_tiles, vision.image_size, vision.tokens())},
      {"prompt", config_.instruct ? "Instruct (the folder has a chat template)" : "base (no chat template)"}};
}

ModelInputs LlamaVision::preprocess(std::span<const Request> requests, bool vision_only) const {
  ModelInputs inputs;
  const auto batch = static_cast<std::int64_t>(requests.size()), tiles = config_.vision.max_tiles,
             side = config_.image.tile_size;
  const auto images = static_cast<std::int64_t>(most_images(requests));
  at::Tensor ids = at::zeros({batch, images}, at::kLong), mask = at::zeros({batch, images, tiles}, at::kLong);
  if (images > 0) inputs.pixel_values = at::zeros({batch, images, tiles, 3, side, side}, at::kFloat);
  std::vector<std::vector<TokenId>> prompts;
  for (std::int64_t row = 0; row < batch; ++row) {
    const Request& request = requests[static_cast<std::size_t>(row)];
    for (std::size_t i = 0; i < request.images.size(); ++i) {
      const Tiles made = make_tiles(request.images[i], config_.image);
      const auto image = static_cast<std::int64_t>(i), used = made.grid.tiles();
      inputs.pixel_values[row][image].narrow(0, 0, used).copy_(normalize_tiles(made.tiles, config_.image.scale));
      ids[row][image].fill_(aspect_ratio_id(made.grid, tiles));
      mask[row][image].narrow(0, 0, used).fill_(1);
      inputs.tiles_per_image.push_back(tiles);
    }
    if (vision_only) continue;
    prompts.push_back(
        encode_prompt(require_tokenizer(tokenizer_.get()), special_, config_, request.text, request.images.size()));
    if (const auto length = static_cast<std::int64_t>(prompts.back().size()); length > info_.context_length) {
      throw Error(ErrorCode::kUsage, fmt::format("the prompt has {} tokens, the model's context is {}; shorten it",
                                                 length, info_.context_length));
    }
  }
  if (!vision_only) pad_prompts(prompts, inputs);
  if (images == 0) return inputs;
  if (!vision_only) {
    at::Tensor crossing = at::zeros({batch, inputs.input_ids.size(1), images, tiles}, at::kLong);
    for (std::int64_t row = 0; row < batch; ++row)
      fill_cross_attention_mask(prompts[static_cast<std::size_t>(row)], special_.image, mask[row], crossing[row]);
    inputs.extra["cross_attention_mask"] = crossing;
  }
  inputs.extra["aspect_ratio_ids"] = ids;
  inputs.extra["aspect_ratio_mask"] = mask;
  return inputs;
}

ImageFeatures LlamaVision::encode_images(const ModelInputs& inputs) const {
  const std::vector<Grid> grids = supported_grids(config_.vision.max_tiles);
  const auto found = inputs.extra.find("aspect_ratio_ids");
  const at::Tensor pixels = inputs.pixel_values.flatten(0, 1);
  if (found == inputs.extra.end() || found->second.numel() != pixels.size(0)) {
    throw Error(ErrorCode::kMismatch,
                "pixel_values come without an aspect_ratio_id per picture; take both from "
                "preprocess()");
  }
  const at::Tensor ids = found->second.to(at::kCPU, at::kLong).contiguous();
  ImageFeatures features;
  features.tiles_per_image = inputs.tiles_per_image;
  std::vector<at::Tensor> states, valid;
  const std::span<const std::int64_t> all(ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel()));
  for (std::size_t image = 0, count = 1; image < all.size(); image += count, count = 1) {
    const std::int64_t id = all[image];
    if (id < 0 || id > static_cast<std::int64_t>(grids.size())) {
      throw Error(ErrorCode::kMismatch,
                  fmt::format("aspect_ratio_ids holds {}; this model knows 1 to {}", id, grids.size()));
    }
    if (id == 0) continue;  // a place of the batch without a picture
    const std::int64_t used = grids[static_cast<std::size_t>(id - 1)].tiles();
    // Neighbours of the same shape go together.
    while (image + count < all.size() && all[image + count] == id &&
           static_cast<std::int64_t>(count) < vision_.pictures_at_once()) {
      ++count;
    }
    const auto pictures = static_cast<std::int64_t>(count);
    states.push_back(vision_(pixels.narrow(0, static_cast<std::int64_t>(image), pictures), used, id));
    valid.push_back(at::zeros({pictures, pixels.size(1), config_.vision.tokens()}, at::kBool));
    valid.back().narrow(1, 0, used).fill_(true);
    valid.back() = valid.back().flatten(0, 1);
  }
  features.last_hidden_state = states.size() == 1 ? states.front() : at::cat(states, 0);
  features.valid = at::cat(valid, 0).to(features.last_hidden_state.device());
  if (connector_) features.image_embeds = connector_(features.last_hidden_state.to(connector_type_));
  return features;
}

void LlamaVision::require_language() const {
  if (!embedding_.defined())
    throw Error(ErrorCode::kUnsupported, "this model was loaded without its language part (multimodal: false)");
}

std::unique_ptr<KvCache> LlamaVision::new_cache(std::int64_t batch, std::int64_t capacity) const {
  require_language();
  const DecoderConfig& text = config_.text;
  const auto crossing = static_cast<std::int64_t>(config_.cross_attention_layers.size());
  return std::make_unique<CrossCache>(
      KvCacheShape{text.layers - crossing, batch, capacity, text.kv_heads, text.head_dim}, text_type_,
      embedding_.device(), config_.cross_attention_layers.size());
}

/// Keys and values of the pictures whose tokens are in `ids`, in their order.
void LlamaVision::add_images(const at::Tensor& ids, const std::vector<std::int64_t>& lengths,
                             const ImageFeatures* features, CrossCache& cache) const {
  const auto given = static_cast<std::int64_t>(features != nullptr ? features->tiles_per_image.size() : 0);
  const std::int64_t marked = ids.eq(config_.image_token_id).sum().item<std::int64_t>();
  if (marked != given) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("the prompt has places for {} pictures, and {} are given", marked, given));
  }
  if (given == 0) return;
  if (!features->image_embeds.defined())
    throw Error(ErrorCode::kUnsupported, "the pictures were encoded without the model's connector");
  const std::int64_t tiles = config_.vision.max_tiles, per_tile = config_.vision.tokens();
  const at::Tensor used = features->valid.view({given, tiles, per_tile}).select(2, 0).sum(1).cpu();
  const at::Tensor embeds = features->image_embeds.view({given, tiles * per_tile, -1}).to(text_type_);
  std::int64_t image = 0, row = 0;
  for (std::size_t sequence = 0; sequence < lengths.size(); row += lengths[sequence], ++sequence) {
    SeenImages& seen = cache.sequences[sequence];
    std::vector<at::Tensor> tokens;
    const std::int64_t end =
        image + ids.narrow(0, row, lengths[sequence]).eq(config_.image_token_id).sum().item<std::int64_t>();
    for (; image < end; ++image) {
      const std::int64_t count = used[image].item<std::int64_t>() * per_tile;
      tokens.push_back(embeds[image].narrow(0, 0, count));
      seen.ends.push_back(seen.ends.back() + count);
    }
    if (tokens.empty()) continue;
    const at::Tensor joined = tokens.size() == 1 ? tokens.front() : at::cat(tokens, 0);
    for (const auto& layer : layers_) {
      if (const auto* crossing = std::get_if<CrossAttentionLayer>(&layer)) crossing->add_images(joined, seen);
    }
  }
}

TextOutput LlamaVision::forward(const ModelInputs& inputs, const ImageFeatures* features, KvCache& cache,
                                std::int64_t logits_to_keep) const {
  require_language();
  auto* crossing = dynamic_cast<CrossCache*>(&cache);
  if (crossing == nullptr) throw Error(ErrorCode::kMismatch, "the cache is another model's; take new_cache()'s");
  const auto on_device = [&](const at::Tensor& t) { return t.defined() ? t.to(embedding_.device()) : t; };
  const PackedTokens tokens = pack_tokens(on_device(inputs.input_ids), on_device(inputs.attention_mask), cache);
  const at::Tensor ids = tokens.ids.cpu().contiguous();
  add_images(ids, tokens.lengths, features, *crossing);
  CrossRows cross_rows = see_images(ids, tokens.lengths, config_.image_token_id, *crossing);
  if (cross_rows.seeing.defined()) cross_rows.seeing = on_device(cross_rows.seeing);
  const TokenRows rows = {tokens.lengths, rotary_.tables(tokens.positions)};
  at::Tensor hidden = embedding_.index_select(0, tokens.ids).to(text_type_);
  for (const auto& layer : layers_) {
    if (const auto* self = std::get_if<DecoderLayer>(&layer)) {
      hidden = (*self)(hidden, rows, cache);
    } else {
      hidden = std::get<CrossAttentionLayer>(layer)(hidden, cross_rows, *crossing);
    }
  }
  for (std::size_t i = 0; i < tokens.lengths.size(); ++i)
    cache.advance(static_cast<std::int64_t>(i), tokens.lengths[i]);
  hidden = norm_(hidden);
  return {unpack_rows(hidden, tokens), lm_head(last_rows(hidden, tokens, logits_to_keep))};
}

at::Tensor LlamaVision::lm_head(const at::Tensor& hidden) const {
  require_language();
  return lm_head_(hidden.to(text_type_)).to(at::kFloat);
}

}  // namespace vlmzoo::llama_vision
