#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "internvl_config.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::internvl {

/// Columns and rows of the grid whose aspect ratio is nearest; a tie goes to the larger one while the picture covers
/// more than half of it. Source: OpenGVLab/InternVL, train/dataset.py, find_closest_aspect_ratio.
std::pair<std::int64_t, std::int64_t> choose_grid(std::int64_t width, std::int64_t height, const ImageConfig& config);

/// A picture as 8-bit tiles, row by row, with the thumbnail last when there is more than one. Source:
/// dynamic_preprocess there.
std::vector<Image> make_tiles(const Image& image, const ImageConfig& config);

}  // namespace vlmzoo::internvl
