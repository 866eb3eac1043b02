#include "synth/background.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "synth/draw.hpp"

namespace vlmzoo::app::synth {
namespace {

using Palette = std::array<cv::Vec3b, 256>;

/// A point of the table: turned and tilted coordinates in sides of the picture, and two smooth noises from 0 to 1.
struct Spot {
  double u, v, coarse, fine;
};

double fraction(double x) { return x - std::floor(x); }
/// 0 to 1 and back, once per unit.
double wave(double x) { return std::abs(2 * fraction(x) - 1); }
bool odd(double x) { return (static_cast<int>(std::floor(x)) & 1) != 0; }

/// From the first colour (0) to the second (255).
Palette make_palette(Random& random) {
  const double hue = random.unit(),
               saturation = random.chance(0.25) ? random.between(0.0, 0.15) : random.between(0.2, 1.0);
  const double value = random.between(0.12, 0.95);
  const bool other = random.chance(0.3);
  const double second_hue = other ? random.unit() : hue + random.between(-0.06, 0.06);
  const double contrast = random.between(0.06, 0.32);
  const double second_value = value > 0.5 ? value - contrast : value + contrast;
  const cv::Scalar first = hsv(hue, saturation, value), second = hsv(second_hue, saturation, second_value);
  Palette palette;
  for (int i = 0; i < 256; ++i) {
    for (int c = 0; c < 3; ++c) {
      palette[static_cast<std::size_t>(i)][c] = static_cast<std::uint8_t>(first[c] + (second[c] - first[c]) * i / 255);
    }
  }
  return palette;
}

/// Calls pattern(Spot) -> 0 to 1 for every pixel.
template <class Pattern>
cv::Mat paint(Random& random, const Tilt& tilt, int size, const Pattern& pattern) {
  const Palette palette = make_palette(random);
  const cv::Mat coarse = smooth_noise(random, 5, size), fine = smooth_noise(random, 24, size);
  // A turn by twice the arc tangent of `half`, without libm.
  const double half = random.between(-1.0, 1.0);
  const double cosine = (1 - half * half) / (1 + half * half), sine = 2 * half / (1 + half * half);
  cv::Mat result(size, size, CV_8UC3);
  for (int y = 0; y < size; ++y) {
    const auto *rough = coarse.ptr<std::uint8_t>(y), *sharp = fine.ptr<std::uint8_t>(y);
    auto* row = result.ptr<cv::Vec3b>(y);
    const double py = (y + 0.5) / size - 0.5;
    for (int x = 0; x < size; ++x) {
      const double px = (x + 0.5) / size - 0.5;
      const double away = 1 / (1 - tilt.across * px - tilt.along * py);
      const Spot spot{(px * cosine + py * sine) * away + 8, (py * cosine - px * sine) * away + 8, rough[x] / 255.0,
                      sharp[x] / 255.0};
      row[x] = palette[static_cast<std::size_t>(std::clamp(pattern(spot), 0.0, 1.0) * 255)];
    }
  }
  return result;
}

}  // namespace

cv::Mat draw_background(Random& random, const Tilt& tilt, int size) {
  const int kind = random.between(0, 9);
  const double rate = random.between(3.0, 18.0), part = random.between(0.3, 0.7), warp = random.between(0.0, 0.25);
  const auto painted = [&](const auto& pattern) { return paint(random, tilt, size, pattern); };
  switch (kind) {
    case 0:  // plain
      return painted([](const Spot& s) { return 0.15 * s.coarse + 0.05 * s.fine; });
    case 1:  // stained
      return painted([](const Spot& s) { return 0.8 * s.coarse + 0.2 * s.fine; });
    case 2:  // stripes
      return painted(
          [=](const Spot& s) { return (fraction(s.u * rate + warp * s.coarse) < part ? 0.0 : 0.9) + 0.1 * s.fine; });
    case 3:  // chequered
      return painted(
          [=](const Spot& s) { return (odd(s.u * rate / 2) != odd(s.v * rate / 2) ? 0.8 : 0.0) + 0.2 * s.coarse; });
    case 4:  // planks: seams, and a grain along them
      return painted([=](const Spot& s) {
        const double across = s.u * rate / 3;
        const double grain = wave(across * 7 + 3 * s.coarse + 0.3 * std::floor(across)) * 0.4 + 0.3 * s.fine;
        return fraction(across) < 0.03 ? 1.0 : grain + (odd(across) ? 0.15 : 0.0);
      });
    case 5:  // veins
      return painted([=](const Spot& s) { return wave(s.u * 2 + s.coarse * (2 + rate / 4)) * 0.85 + 0.15 * s.fine; });
    case 6:  // woven
      return painted(
          [=](const Spot& s) { return 0.4 * wave(s.u * rate * 3) + 0.4 * wave(s.v * rate * 3) + 0.2 * s.coarse; });
    case 7:  // dots
      return painted([=](const Spot& s) {
        const double du = fraction(s.u * rate / 2) - 0.5, dv = fraction(s.v * rate / 2) - 0.5;
        return (du * du + dv * dv < part * part / 4 ? 0.9 : 0.0) + 0.1 * s.coarse;
      });
    case 8:  // a tablecloth's lines
      return painted([=](const Spot& s) {
        const bool on = fraction(s.u * rate / 2) < 0.12, cross = fraction(s.v * rate / 2) < 0.12;
        return (on ? 0.5 : 0.0) + (cross ? 0.4 : 0.0) + 0.1 * s.fine;
      });
    default:  // speckled stone
      return painted([=](const Spot& s) { return (s.fine > 0.62 ? 0.7 : s.fine < 0.3 ? 0.3 : 0.0) + 0.3 * s.coarse; });
  }
}

}  // namespace vlmzoo::app::synth
