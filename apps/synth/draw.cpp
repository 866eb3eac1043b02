#include "synth/draw.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

namespace vlmzoo::app::synth {
namespace {

/// Of OpenCV's coordinates with a fraction.
constexpr int kShift = 4;

cv::Point fixed(const Point& point) {
  return {static_cast<int>(std::lround(point.x * (1 << kShift))),
          static_cast<int>(std::lround(point.y * (1 << kShift)))};
}

double length(const Point& a, const Point& b) {
  return std::sqrt((a.x - b.x) * (a.x - b.x) + (a.y - b.y) * (a.y - b.y));
}

cv::Rect bounds(const Quad& quad, double margin, const cv::Mat& canvas) {
  const auto [left, right] = std::minmax({quad[0].x, quad[1].x, quad[2].x, quad[3].x});
  const auto [top, bottom] = std::minmax({quad[0].y, quad[1].y, quad[2].y, quad[3].y});
  const cv::Point first(static_cast<int>(std::floor(left - margin)), static_cast<int>(std::floor(top - margin)));
  const cv::Point last(static_cast<int>(std::ceil(right + margin)) + 1,
                       static_cast<int>(std::ceil(bottom + margin)) + 1);
  return cv::Rect(first, last) & cv::Rect(0, 0, canvas.cols, canvas.rows);
}

/// Pixels to the unit square of an object (Heckbert, "Fundamentals of Texture Mapping and Image Warping", 1989).
class Unprojection {
 public:
  explicit Unprojection(const Quad& q) {
    const double dx1 = q[1].x - q[2].x, dx2 = q[3].x - q[2].x, sx = q[0].x - q[1].x + q[2].x - q[3].x;
    const double dy1 = q[1].y - q[2].y, dy2 = q[3].y - q[2].y, sy = q[0].y - q[1].y + q[2].y - q[3].y;
    const double det = dx1 * dy2 - dx2 * dy1;
    const double g = (sx * dy2 - dx2 * sy) / det, h = (dx1 * sy - sx * dy1) / det;
    const double a = q[1].x - q[0].x + g * q[1].x, b = q[3].x - q[0].x + h * q[3].x, c = q[0].x;
    const double d = q[1].y - q[0].y + g * q[1].y, e = q[3].y - q[0].y + h * q[3].y, f = q[0].y;
    m_ = {e - f * h,     c * h - b,     b * f - c * e, f * g - d,    a - c * g,
          c * d - a * f, d * h - e * g, b * g - a * h, a * e - b * d};
  }

  Point operator()(double x, double y) const {
    const double w = 1 / (m_[6] * x + m_[7] * y + m_[8]);
    return {(m_[0] * x + m_[1] * y + m_[2]) * w, (m_[3] * x + m_[4] * y + m_[5]) * w};
  }

 private:
  std::array<double, 9> m_;
};

/// The broken line through `knots` at `t` in [0, 1].
double at(const std::array<double, Bend::kKnots>& knots, double t) {
  const double position = std::clamp(t, 0.0, 1.0) * (Bend::kKnots - 1);
  const auto left = std::min<std::size_t>(static_cast<std::size_t>(position), Bend::kKnots - 2);
  return knots[left] + (knots[left + 1] - knots[left]) * (position - static_cast<double>(left));
}

int mixed(int a, int b, int c, int d, int fx, int fy) {
  return (a * (256 - fx) + b * fx) * (256 - fy) + (c * (256 - fx) + d * fx) * fy;
}

/// Blends the texture's colour at (x, y), in 1/256 texels, over `pixel`.
void blend(const cv::Mat& texture, int x, int y, std::uint8_t* pixel) {
  const int fx = x & 255, fy = y & 255;
  const std::uint8_t* upper = texture.ptr<std::uint8_t>(y >> 8) + (x >> 8) * 4;
  const std::uint8_t* lower = texture.ptr<std::uint8_t>((y >> 8) + 1) + (x >> 8) * 4;
  const int alpha = mixed(upper[3], upper[7], lower[3], lower[7], fx, fy) >> 8;  // 0 to 255 · 256
  for (int c = 0; c < 3; ++c) {
    const int colour = mixed(upper[c], upper[c + 4], lower[c], lower[c + 4], fx, fy) >> 16;
    pixel[c] = static_cast<std::uint8_t>(pixel[c] + (colour - pixel[c]) * alpha / (255 * 256));
  }
}

}  // namespace

double area(const Quad& quad) {
  double sum = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    const Point &a = quad[i], &b = quad[(i + 1) % 4];
    sum += a.x * b.y - b.x * a.y;
  }
  return std::abs(sum) / 2;
}

cv::Scalar hsv(double hue, double saturation, double value) {
  const double sixth = (hue - std::floor(hue)) * 6;
  const auto channel = [&](double peak) {
    double distance = std::abs(sixth - peak);
    distance = std::min(distance, 6 - distance);
    return 255 * value * (1 - saturation * std::clamp(distance - 1, 0.0, 1.0));
  };
  return {channel(4), channel(2), channel(0)};
}

cv::Scalar scaled(const cv::Scalar& colour, double factor) {
  const auto channel = [&](int c) { return std::clamp(colour[c] * factor, 0.0, 255.0); };
  return {channel(0), channel(1), channel(2)};
}

cv::Mat make_texture(int width, int height, const cv::Scalar& colour) {
  return {height, width, CV_8UC4, cv::Scalar(colour[0], colour[1], colour[2], 255)};
}

void fill_quad(cv::Mat& image, const Quad& quad, const cv::Scalar& value) {
  const std::array points = {fixed(quad[0]), fixed(quad[1]), fixed(quad[2]), fixed(quad[3])};
  cv::fillConvexPoly(image, points.data(), 4, value, cv::LINE_8, kShift);
}

cv::Mat smooth_noise(Random& random, int cells, int size) {
  cv::Mat grid(cells + 1, cells + 1, CV_8UC1), finer, result;
  for (int y = 0; y <= cells; ++y) {
    for (int x = 0; x <= cells; ++x) grid.at<std::uint8_t>(y, x) = static_cast<std::uint8_t>(random.below(256));
  }
  cv::resize(grid, finer, cv::Size(cells * 4, cells * 4), 0, 0, cv::INTER_LINEAR_EXACT);
  cv::GaussianBlur(finer, finer, cv::Size(5, 5), 1.2);
  cv::resize(finer, result, cv::Size(size, size), 0, 0, cv::INTER_LINEAR_EXACT);
  return result;
}

Bend random_bend(Random& random, double strength) {
  Bend bend;
  for (double& knot : bend.along) knot = random.between(-strength, strength);
  for (double& knot : bend.across) knot = random.between(-strength, strength);
  return bend;
}

cv::Mat reduced(cv::Mat texture, const Quad& quad) {
  const double width = std::max(length(quad[0], quad[1]), length(quad[3], quad[2]));
  const double height = std::max(length(quad[0], quad[3]), length(quad[1], quad[2]));
  while (texture.cols > 1.5 * width && texture.rows > 1.5 * height && texture.cols > 3 && texture.rows > 3) {
    // Even sides, so that each texel is the exact mean of four.
    const cv::Mat even = texture(cv::Rect(0, 0, texture.cols & ~1, texture.rows & ~1));
    cv::Mat half;
    cv::resize(even, half, cv::Size(even.cols / 2, even.rows / 2), 0, 0, cv::INTER_AREA);
    texture = half;
  }
  return texture;
}

void paste(cv::Mat& canvas, const cv::Mat& texture, const Quad& quad, const Bend& bend) {
  cv::Mat padded;  // a clear border, in which the edge fades
  cv::copyMakeBorder(texture, padded, 1, 1, 1, 1, cv::BORDER_REPLICATE);
  for (int x = 0; x < padded.cols; ++x) padded.at<cv::Vec4b>(0, x)[3] = padded.at<cv::Vec4b>(padded.rows - 1, x)[3] = 0;
  for (int y = 0; y < padded.rows; ++y) padded.at<cv::Vec4b>(y, 0)[3] = padded.at<cv::Vec4b>(y, padded.cols - 1)[3] = 0;
  const Unprojection unproject(quad);
  const cv::Rect box = bounds(quad, 2 + 0.05 * std::sqrt(area(quad)), canvas);
  const int right = (padded.cols - 1) * 256, bottom = (padded.rows - 1) * 256;
  for (int y = box.y; y < box.y + box.height; ++y) {
    auto* row = canvas.ptr<std::uint8_t>(y);
    for (int x = box.x; x < box.x + box.width; ++x) {
      const Point p = unproject(x + 0.5, y + 0.5);
      if (!(p.x > -0.2 && p.x < 1.2 && p.y > -0.2 && p.y < 1.2)) continue;
      const int u = static_cast<int>(((p.x + at(bend.along, p.y)) * texture.cols + 0.5) * 256);
      const int v = static_cast<int>(((p.y + at(bend.across, p.x)) * texture.rows + 0.5) * 256);
      if (u >= 0 && v >= 0 && u < right && v < bottom) blend(padded, u, v, row + x * 3);
    }
  }
}

void cast_shadow(cv::Mat& canvas, const Quad& quad, double softness, double strength) {
  const cv::Rect box = bounds(quad, 3 * softness + 1, canvas);
  if (box.empty()) return;
  cv::Mat mask = cv::Mat::zeros(box.size(), CV_8UC1);
  Quad moved = quad;
  for (Point& corner : moved) corner = {corner.x - box.x, corner.y - box.y};
  fill_quad(mask, moved, cv::Scalar(255));
  const int reach = 2 * static_cast<int>(std::ceil(2 * softness)) + 1;
  cv::GaussianBlur(mask, mask, cv::Size(reach, reach), softness);
  const int factor = static_cast<int>(std::lround(strength * 256));
  for (int y = 0; y < box.height; ++y) {
    const auto* shade = mask.ptr<std::uint8_t>(y);
    auto* row = canvas.ptr<std::uint8_t>(box.y + y) + box.x * 3;
    for (int x = 0; x < box.width * 3; ++x) {
      row[x] = static_cast<std::uint8_t>(row[x] * (255 * 256 - shade[x / 3] * factor) / (255 * 256));
    }
  }
}

}  // namespace vlmzoo::app::synth
