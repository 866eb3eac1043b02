#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/nn/kv_cache.hpp"
#include "vlmzoo/tokenizer.hpp"
#include "vlmzoo/weights.hpp"

/// The adapter interface: what a plugin implements, in the order in which data flows through it.
///   images, prompt -> preprocess -> ModelInputs -> encode_images -> ImageFeatures -> forward -> TextOutput
/// Symbols in shapes: B prompts, L tokens of the longest one, I images, N vision rows (tiles), P tokens per tile,
/// C width of the vision tower, H width of the text model, V vocabulary.
namespace vlmzoo {

/// One prompt and its pictures. `text` is neutral: `<image>` marks where a picture goes; without any mark all pictures
/// come first.
struct Request {
  std::string text;
  std::vector<Image> images;
};

struct ModelInputs {
  at::Tensor pixel_values;    ///< fp32, [N, 3, S, S]; undefined without images. An adapter may add leading dimensions
  at::Tensor input_ids;       ///< int64 [B, L]; undefined when only vision was asked for
  at::Tensor attention_mask;  ///< bool [B, L], false = padding; undefined: no padding
  std::vector<std::int64_t> tiles_per_image;  ///< I numbers; their sum is N
  std::map<std::string, at::Tensor> extra;    ///< what only this adapter needs, by the field's names
};

struct ImageFeatures {
  at::Tensor last_hidden_state;  ///< [N, P, C]
  at::Tensor valid;              ///< bool [N, P], false = padding; undefined: all true
  at::Tensor pooler_output;      ///< [I, C], or undefined where the model has none
  at::Tensor image_embeds;       ///< [tokens, H] or the adapter's own shape; undefined when the connector isn't loaded
  std::vector<std::int64_t> tiles_per_image;
};

struct TextOutput {
  at::Tensor last_hidden_state;  ///< [B, L, H], after the final norm; rows of padding are zero
  at::Tensor logits;             ///< fp32 [B, logits_to_keep, V]: of the last real tokens of each prompt
};

/// What a model is, known before its weights are read.
struct ModelInfo {
  std::string model_type;             ///< canonical
  std::string architecture;           ///< as config.json names it
  std::int64_t num_features = 0;      ///< C
  std::int64_t text_hidden_size = 0;  ///< H
  std::int64_t vocab_size = 0;        ///< V
  std::int64_t context_length = 0;    ///< tokens a prompt and its answer may have
  std::int64_t image_size = 0;        ///< S
  std::int64_t max_tiles = 0;
  std::int64_t tokens_per_tile = 0;
  std::uint64_t working_memory = 300'000'000;  ///< bytes beside the weights: intermediate results, a cache
  std::vector<TokenId> stop_ids;               ///< generation ends at any of them
  TokenId answer_end = -1;  ///< the one that ends answers to be trained on; -1: the first of stop_ids
  std::vector<std::pair<std::string, std::string>> facts;  ///< more rows for `info`: "vision", "24 layers, …"
};

/// A loaded model. Weights are immutable and shared; const methods may run concurrently. A cache belongs to one
/// request.
class VLMZOO_API Model {
 public:
  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;
  virtual const Parameters& parameters() const = 0;

  /// Pixels and token ids of a batch. With `vision_only`, texts are ignored and `input_ids` stays undefined. Errors:
  /// kMismatch (marks and pictures differ in number), kUsage (not UTF-8, or longer than the context).
  virtual ModelInputs preprocess(std::span<const Request> requests, bool vision_only = false) const = 0;

  virtual ImageFeatures encode_images(const ModelInputs& inputs) const = 0;

  /// A cache for `batch` prompts of at most `capacity` tokens each, answers included.
  virtual std::unique_ptr<KvCache> new_cache(std::int64_t batch, std::int64_t capacity) const = 0;

  /// Appends `inputs.input_ids` to what `cache` holds. `features` is null when the ids hold no image tokens (decoding).
  /// Rows whose attention_mask is all false are left alone and give zero logits.
  virtual TextOutput forward(const ModelInputs& inputs, const ImageFeatures* features, KvCache& cache,
                             std::int64_t logits_to_keep = 1) const = 0;

  /// Logits [..., V] in fp32 of final hidden states [..., H].
  virtual at::Tensor lm_head(const at::Tensor& hidden) const = 0;

  /// Null when the model was created for vision only, or its folder has no tokenizer.
  virtual const Tokenizer* tokenizer() const = 0;
};

/// What to build, beside the configuration.
struct CreateOptions {
  bool plan_only = false;  ///< names, shapes and sizes, no weights: `info`, `init`
  bool trainable = false;  ///< roles that the configuration doesn't freeze get fp32 weights with gradients
  RoleSet roles = RoleSet::all();
};

}  // namespace vlmzoo
