#include "image_processor.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::internvl {
std::pair<std::int64_t, std::int64_t> choose_grid(std::int64_t width, std::int64_t height, const ImageConfig& config) {
  const double aspect = static_cast<double>(width) / static_cast<double>(height);
  const auto area = static_cast<double>(width * height);
  double best = std::numeric_limits<double>::infinity();
  std::pair<std::int64_t, std::int64_t> grid = {1, 1};
  // Grids in the order of their number of tiles, and within it by columns: the order in which ties are settled.
  for (std::int64_t tiles = config.min_tiles; tiles <= config.max_tiles; ++tiles) {
    for (std::int64_t columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns != 0) continue;
      const std::int64_t rows = tiles / columns;
      const double difference = std::abs(aspect - static_cast<double>(columns) / static_cast<double>(rows));
      const bool larger =
          area > 0.5 * static_cast<double>(config.tile_size * config.tile_size) * static_cast<double>(tiles);
      if (difference < best || (difference == best && larger)) grid = {columns, rows};
      best = std::min(best, difference);
    }
  }
  return grid;
}

std::vector<Image> make_tiles(const Image& image, const ImageConfig& config) {
  const std::int64_t side = config.tile_size;
  if (config.clip_pipeline) return {clip_square(image, side)};
  const auto [columns, rows] = choose_grid(image.width, image.height, config);
  const Image whole = resize(image, columns * side, rows * side, Resample::kBicubic);
  if (columns * rows == 1) return {whole};
  std::vector<Image> tiles;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column)
      tiles.push_back(crop(whole, column * side, row * side, side, side));
  }
  if (config.thumbnail) tiles.push_back(resize(image, side, side, Resample::kBicubic));
  return tiles;
}

}  // namespace vlmzoo::internvl
