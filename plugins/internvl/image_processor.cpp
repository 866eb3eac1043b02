#include "image_processor.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "vlmzoo/error.hpp"

namespace vlmzoo::internvl {
namespace {

/// The migration plan's CLIP pipeline: shorter side to S, centre crop. Source: torchvision's Resize and CenterCrop.
Image clip_square(const Image& image, std::int64_t side) {
  const std::int64_t shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  const std::int64_t scaled = side * longer / shorter;
  if (scaled > 65535) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("a picture of {}×{} is too thin for the clip pipeline: its longer side "
                            "would become {} pixels, at most 65535 work; crop it",
                            image.width, image.height, scaled));
  }
  const bool wide = image.width >= image.height;
  const Image resized = resize(image, wide ? scaled : side, wide ? side : scaled, Resample::kBicubic);
  // CenterCrop rounds half to even, as Python's round() does.
  const auto offset = [&](std::int64_t size) {
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(size - side) / 2.0));
  };
  return crop(resized, offset(resized.width), offset(resized.height), side, side);
}

}  // namespace

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

at::Tensor normalize_tiles(const std::vector<Image>& tiles, const ImageConfig& config) {
  const std::int64_t side = config.tile_size, plane = side * side;
  std::array<std::array<float, 256>, 3> table{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t value = 0; value < 256; ++value) {
      table[channel][value] =
          static_cast<float>((static_cast<double>(value) / 255.0 - config.mean[channel]) / config.std[channel]);
    }
  }
  at::Tensor pixels = at::empty({static_cast<std::int64_t>(tiles.size()), 3, side, side}, at::kFloat);
  float* out = pixels.mutable_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(tiles.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::uint8_t* in = tiles[static_cast<std::size_t>(tile)].pixels.data();
      for (std::int64_t i = 0; i < plane; ++i) {
        for (std::int64_t channel = 0; channel < 3; ++channel) {
          out[(tile * 3 + channel) * plane + i] = table[static_cast<std::size_t>(channel)][in[i * 3 + channel]];
        }
      }
    }
  });
  return pixels;
}

}  // namespace vlmzoo::internvl
