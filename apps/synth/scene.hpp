#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

#include "synth/draw.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo::app::synth {

/// Where a receipt lies.
struct Region {
  Quad corners;        ///< in pixels; parts may lie outside the picture
  double visible = 0;  ///< the part of it that nothing covers and the frame doesn't cut off
};

/// Of every receipt at least this much is visible.
constexpr double kLeastVisible = 0.75;

struct Scene {
  cv::Mat pixels;                ///< CV_8UC3 [size, size], BGR
  std::vector<Region> receipts;  ///< the lowest first
};

/// A table with `count` receipts (0 to 4) among up to six other things, photographed. What it holds depends on
/// `random` and `count` alone; `size` (pixels) is only its scale.
Scene draw_scene(Random& random, int count, int size);

}  // namespace vlmzoo::app::synth
