#pragma once

#include <cstdint>
#include <vector>

#include "llama_vision_config.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::llama_vision {

/// The canvas that a picture fits into with the least enlargement, else the least reduction; of several the smallest.
/// Source: transformers, image_processing_mllama.py, get_optimal_tiled_canvas; Meta, image_transform.py, get_best_fit.
Grid choose_canvas(std::int64_t width, std::int64_t height, const ImageConfig& config);

/// A picture as 8-bit tiles, row by row.
struct Tiles {
  std::vector<Image> tiles;
  Grid grid;
};

/// Resizes the picture to fit its canvas, keeping the ratio and enlarging it to one tile's side at most; the canvas is
/// black to the right and below. Source: MllamaImageProcessor.preprocess there. Error: kUnsupported for a picture so
/// thin that a side would vanish.
Tiles make_tiles(const Image& image, const ImageConfig& config);

}  // namespace vlmzoo::llama_vision
