#include "image_processor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo::llama_vision {
namespace {

double ratio(std::int64_t a, std::int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

/// Width and height of the picture on its canvas. Source: get_image_size_fit_to_canvas.
std::pair<std::int64_t, std::int64_t> fit(const Image& image, Grid canvas, std::int64_t tile) {
  const std::int64_t width = std::clamp(image.width, tile, canvas.columns * tile);
  const std::int64_t height = std::clamp(image.height, tile, canvas.rows * tile);
  const double by_width = ratio(width, image.width), by_height = ratio(height, image.height);
  const auto scaled = [](std::int64_t side, double scale, std::int64_t most) {
    return std::min(static_cast<std::int64_t>(std::floor(static_cast<double>(side) * scale)), most);
  };
  if (by_width < by_height) return {width, scaled(image.height, by_width, height)};
  return {scaled(image.width, by_height, width), height};
}

Image black(std::int64_t width, std::int64_t height) {
  return {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), 0)};
}

void paste(const Image& image, Image& canvas) {
  for (std::int64_t y = 0; y < image.height; ++y) {
    std::copy_n(image.pixels.begin() + y * image.width * 3, image.width * 3,
                canvas.pixels.begin() + y * canvas.width * 3);
  }
}

}  // namespace

Grid choose_canvas(std::int64_t width, std::int64_t height, const ImageConfig& config) {
  Grid best;
  double best_scale = 0;
  for (const Grid& grid : supported_grids(config.max_tiles)) {
    const double scale =
        std::min(ratio(grid.columns * config.tile_size, width), ratio(grid.rows * config.tile_size, height));
    const bool enlarges = scale >= 1, best_enlarges = best_scale >= 1;
    const bool better = enlarges != best_enlarges ? enlarges : enlarges ? scale < best_scale : scale > best_scale;
    if (better || (scale == best_scale && grid.tiles() < best.tiles())) {
      best = grid;
      best_scale = scale;
    }
  }
  return best;
}

Tiles make_tiles(const Image& image, const ImageConfig& config) {
  const std::int64_t tile = config.tile_size;
  if (config.clip_pipeline) return {{clip_square(image, tile)}, {}};
  const Grid grid = choose_canvas(image.width, image.height, config);
  const auto [width, height] = fit(image, grid, tile);
  if (width < 1 || height < 1) {
    throw Error(ErrorCode::kUnsupported, fmt::format("a picture of {}×{} is too thin: fitted to this model's tiles it "
                                                     "would become {}×{} pixels; crop it",
                                                     image.width, image.height, width, height));
  }
  Image canvas = black(grid.columns * tile, grid.rows * tile);
  paste(resize(image, width, height, Resample::kBilinear), canvas);
  Tiles result{{}, grid};
  for (std::int64_t row = 0; row < grid.rows; ++row) {
    for (std::int64_t column = 0; column < grid.columns; ++column)
      result.tiles.push_back(crop(canvas, column * tile, row * tile, tile, tile));
  }
  return result;
}

}  // namespace vlmzoo::llama_vision
