#pragma once

#include <opencv2/core.hpp>

#include "vlmzoo/random.hpp"

namespace vlmzoo::app::synth {

/// How far the picture plane is tilted: a point at `x`, `y` (sides of the picture) moves away from the middle by the
/// factor 1 / (1 + across · (x - 1/2) + along · (y - 1/2)).
struct Tilt {
  double across = 0, along = 0;

  double factor(double x, double y) const { return 1 / (1 + across * (x - 0.5) + along * (y - 0.5)); }
};

/// The table: plain, striped, chequered, planks, veined, woven, dotted, with lines, or speckled, in any two colours.
/// CV_8UC3 [size, size].
cv::Mat draw_background(Random& random, const Tilt& tilt, int size);

}  // namespace vlmzoo::app::synth
