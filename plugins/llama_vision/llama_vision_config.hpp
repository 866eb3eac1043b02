#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vlmzoo/json.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/nn/layers.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::llama_vision {

/// Tiles of a canvas.
struct Grid {
  std::int64_t rows = 1, columns = 1;
  std::int64_t tiles() const { return rows * columns; }
  bool operator==(const Grid&) const = default;
};

/// Every grid of at most `max_tiles` tiles, by rows, then by columns. A picture's `aspect_ratio_id` is its grid's place
/// here, from 1 on; 0 is padding. Source: transformers, image_processing_mllama.py, get_all_supported_aspect_ratios.
std::vector<Grid> supported_grids(std::int64_t max_tiles);

/// Rows of the text model's embedding that lm_head lacks: the first is <|image|>'s.
inline constexpr std::int64_t kExtraEmbeddings = 8;

/// Source: transformers, configuration_mllama.py.
struct VisionConfig {
  std::int64_t hidden_size = 0, layers = 0, global_layers = 0, heads = 0, intermediate_size = 0;
  std::int64_t image_size = 0, patch_size = 0;
  std::int64_t max_tiles = 0;                     ///< M: every picture is that many tiles, the unused ones empty
  std::vector<std::int64_t> intermediate_layers;  ///< states that go into these layers are part of the output
  double norm_eps = 1e-5;
  Activation activation = Activation::kGelu;

  std::int64_t tokens() const { return 1 + (image_size / patch_size) * (image_size / patch_size); }  ///< P, of a tile
  std::int64_t output_size() const { return hidden_size * (1 + static_cast<std::int64_t>(intermediate_layers.size())); }
};

/// Pixels -> tiles.
struct ImageConfig {
  std::int64_t tile_size = 0, max_tiles = 0;  ///< max_tiles: that a picture may be cut into, at most VisionConfig's
  bool clip_pipeline = false;
  PixelScale scale;
};

/// Beginnings of tensor names: the release's, or those of checkpoints that transformers ≥ 4.52 wrote.
struct TensorNames {
  std::string vision, connector, text, lm_head;
};

struct LlamaVisionConfig {
  std::string architecture;
  VisionConfig vision;
  DecoderConfig text;
  std::vector<std::int64_t> cross_attention_layers;  ///< their places among the text layers
  ImageConfig image;
  bool instruct = false;  ///< the folder holds a chat template
  std::string system;     ///< system prompt; "": none
  TensorNames names;
  std::int64_t image_token_id = 0;

  /// What config.json leaves out has transformers' default. Errors: kConfig, kUnsupported naming the key, kMismatch
  /// when the folder holds another kind of model.
  static LlamaVisionConfig read(const ModelFolder& folder, const ModelConfig& config);
};

}  // namespace vlmzoo::llama_vision
