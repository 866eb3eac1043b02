#pragma once

#include <array>
#include <opencv2/core.hpp>

#include "vlmzoo/random.hpp"

/// What scenes are drawn with. Every operation rounds the same way on every machine: integers, or doubles without fused
/// multiply-add and without libm; of OpenCV only what is exact in 8 bits. Colours are BGR, pictures CV_8UC3, textures
/// CV_8UC4 with straight alpha.
namespace vlmzoo::app::synth {

struct Point {
  double x = 0, y = 0;
};

/// Corners of an object: top left, top right, bottom right, bottom left as it lies upright. In pixels, or in sides of
/// the picture where it says so.
using Quad = std::array<Point, 4>;

double area(const Quad& quad);

/// Hue in turns, any; saturation and value in [0, 1].
cv::Scalar hsv(double hue, double saturation, double value);
/// `colour` times `factor`, in [0, 255].
cv::Scalar scaled(const cv::Scalar& colour, double factor);

/// An upright rectangle of one colour, opaque.
cv::Mat make_texture(int width, int height, const cv::Scalar& colour);

/// Fills `quad` (pixels) of an 8-bit mask or texture with `value`.
void fill_quad(cv::Mat& image, const Quad& quad, const cv::Scalar& value);

/// Values 0 to 255 that vary smoothly, about `cells` hills across: CV_8UC1 [size, size].
cv::Mat smooth_noise(Random& random, int cells, int size);

/// How an object deviates from a flat sheet: offsets of the texture, in parts of its side, along lines across it.
struct Bend {
  static constexpr int kKnots = 9;
  std::array<double, kKnots> along{}, across{};
};
Bend random_bend(Random& random, double strength);

/// Halves the texture until the quadrilateral shows it nearly texel by pixel.
cv::Mat reduced(cv::Mat texture, const Quad& quad);

/// Draws the texture into the quadrilateral, in perspective, bilinear, its edges smoothed.
void paste(cv::Mat& canvas, const cv::Mat& texture, const Quad& quad, const Bend& bend);

/// Darkens what lies under the quadrilateral by `strength` (0 to 1), with an edge of `softness` pixels.
void cast_shadow(cv::Mat& canvas, const Quad& quad, double softness, double strength);

}  // namespace vlmzoo::app::synth
