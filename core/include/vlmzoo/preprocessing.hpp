#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/model.hpp"
#include "vlmzoo/tokenizer.hpp"

/// The pieces that preprocessors of adapters share: from pictures to pixel values, from prompts to ids.
namespace vlmzoo {

/// Normalisation of channels: (value / 255 - mean) / std.
struct PixelScale {
  std::array<double, 3> mean{}, std{};

  /// `image_mean` and `image_std` of a preprocessor_config.json, each `otherwise`'s when absent. `where` begins the
  /// messages. Error: kConfig.
  static VLMZOO_API PixelScale read(const Json& processor, const PixelScale& otherwise, const std::string& where);
};

/// OpenAI's CLIP; the migration plan's numbers.
inline constexpr PixelScale kClipScale = {{0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711}};

/// fp32 [tiles, 3, S, S] of square tiles of one size.
VLMZOO_API at::Tensor normalize_tiles(std::span<const Image> tiles, const PixelScale& scale);

/// True when `config` asks for the migration plan's CLIP pipeline. Error: kConfig, unless the checkpoint takes pictures
/// of the pipeline's 224 pixels.
VLMZOO_API bool wants_clip_pipeline(const ModelConfig& config, std::int64_t image_size);

/// That pipeline: shorter side to `side` (bicubic), centre crop. Source: torchvision's Resize and CenterCrop. Error:
/// kUnsupported for a picture too thin for it.
VLMZOO_API Image clip_square(const Image& image, std::int64_t side);

/// A side given as 448 or [448, 448], from 1 to `high`. Errors: kConfig, kUnsupported when it isn't square.
VLMZOO_API std::int64_t square_side(const JsonView& view, const std::string& key, std::int64_t high);

/// The texts around the `<image>` marks of a neutral prompt, one more than `images`; without any mark, the prompt
/// alone. Error: kMismatch when marks and pictures differ in number.
VLMZOO_API std::vector<std::string> split_at_marks(const std::string& prompt, std::size_t images);

/// `tokenizer`, which reading a prompt needs. Error: kNotFound when it is null.
VLMZOO_API const Tokenizer& require_tokenizer(const Tokenizer* tokenizer);

/// Fills `input_ids` and, for prompts of unequal length, `attention_mask`: padding on the right.
VLMZOO_API void pad_prompts(std::span<const std::vector<TokenId>> prompts, ModelInputs& inputs);

}  // namespace vlmzoo
