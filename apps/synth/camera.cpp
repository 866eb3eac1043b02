#include "synth/camera.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "synth/draw.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo::app::synth {
namespace {

/// The width that the strengths below were chosen for.
constexpr double kUsual = 224;
constexpr int kFull = 128;  // of the light map: as bright as it is

/// A point inside the unit square and a little around it.
Point somewhere(Random& random) {
  const double x = random.between(-0.2, 1.2);
  return {x, random.between(-0.2, 1.2)};
}

/// CV_8UC1 [size, size], kFull where the light is full.
cv::Mat light_map(Random& random, int size) {
  constexpr int kCoarse = 56;
  const double slope_x = random.between(-0.3, 0.3), slope_y = random.between(-0.3, 0.3);
  const double vignette = random.chance(0.5) ? random.between(0.0, 0.5) : 0.0;
  cv::Mat map(kCoarse, kCoarse, CV_8UC1);
  for (int y = 0; y < kCoarse; ++y) {
    for (int x = 0; x < kCoarse; ++x) {
      const double px = (x + 0.5) / kCoarse - 0.5, py = (y + 0.5) / kCoarse - 0.5;
      const double light = 1 + slope_x * px + slope_y * py - vignette * (px * px + py * py);
      map.at<std::uint8_t>(y, x) = static_cast<std::uint8_t>(std::clamp(light * kFull, 0.0, 255.0));
    }
  }
  const int shadows = random.chance(0.45) ? random.between(1, 2) : 0;
  for (int i = 0; i < shadows; ++i) {
    Quad quad;
    for (Point& corner : quad) corner = somewhere(random);
    const double strength = random.between(0.2, 0.55), softness = random.between(0.6, 4.0);
    cv::Mat mask = cv::Mat::zeros(map.size(), CV_8UC1);
    std::vector<cv::Point> points;
    for (const Point& p : quad) points.emplace_back(static_cast<int>(p.x * kCoarse), static_cast<int>(p.y * kCoarse));
    cv::fillPoly(mask, points, cv::Scalar(255));
    cv::GaussianBlur(mask, mask, cv::Size(17, 17), softness);
    const int factor = static_cast<int>(strength * 256);
    for (int k = 0; k < kCoarse * kCoarse; ++k) {
      map.data[k] = static_cast<std::uint8_t>(map.data[k] * (255 * 256 - mask.data[k] * factor) / (255 * 256));
    }
  }
  cv::Mat result;
  cv::resize(map, result, cv::Size(size, size), 0, 0, cv::INTER_LINEAR_EXACT);
  return result;
}

void illuminate(cv::Mat& canvas, Random& random, double brightness) {
  const cv::Mat map = light_map(random, canvas.cols);
  std::array<int, 3> cast{};
  for (int& channel : cast) channel = static_cast<int>(brightness * random.between(0.86, 1.04) * 1024);
  for (int y = 0; y < canvas.rows; ++y) {
    const auto* light = map.ptr<std::uint8_t>(y);
    auto* row = canvas.ptr<cv::Vec3b>(y);
    for (int x = 0; x < canvas.cols; ++x) {
      for (int c = 0; c < 3; ++c) {
        const int value = row[x][c] * light[x] / kFull * cast[static_cast<std::size_t>(c)] / 1024;
        row[x][c] = static_cast<std::uint8_t>(std::min(value, 255));
      }
    }
  }
}

/// The mean of the picture at some places along a short line.
void shake(cv::Mat& canvas, Random& random) {
  constexpr int kSteps = 5;
  const double dx = random.between(-2.4, 2.4) * canvas.cols / kUsual,
               dy = random.between(-2.4, 2.4) * canvas.cols / kUsual;
  const cv::Mat before = canvas.clone();
  for (int y = 0; y < canvas.rows; ++y) {
    for (int x = 0; x < canvas.cols; ++x) {
      std::array<int, 3> sum{};
      for (int i = 0; i < kSteps; ++i) {
        const double t = (2.0 * i / (kSteps - 1) - 1) / 2;
        const int from_x = std::clamp(x + static_cast<int>(std::lround(dx * t)), 0, canvas.cols - 1);
        const int from_y = std::clamp(y + static_cast<int>(std::lround(dy * t)), 0, canvas.rows - 1);
        const auto& pixel = before.at<cv::Vec3b>(from_y, from_x);
        for (int c = 0; c < 3; ++c) sum[static_cast<std::size_t>(c)] += pixel[c];
      }
      for (int c = 0; c < 3; ++c) {
        canvas.at<cv::Vec3b>(y, x)[c] = static_cast<std::uint8_t>(sum[static_cast<std::size_t>(c)] / kSteps);
      }
    }
  }
}

void defocus(cv::Mat& canvas, double sigma) {
  const int reach = 2 * static_cast<int>(std::ceil(2.5 * sigma)) + 1;
  cv::GaussianBlur(canvas, canvas, cv::Size(reach, reach), sigma);
}

/// `amplitude` is where the triangular distribution ends.
void add_noise(cv::Mat& canvas, Random& random, int amplitude) {
  for (int y = 0; y < canvas.rows; ++y) {
    auto* row = canvas.ptr<std::uint8_t>(y);
    for (int x = 0; x < canvas.cols * 3; x += 4) {
      std::uint64_t bits = random.next();
      for (int i = x; i < std::min(x + 4, canvas.cols * 3); ++i) {
        const int noise = (static_cast<int>(bits & 255) + static_cast<int>(bits >> 8 & 255) - 255) * amplitude / 255;
        row[i] = static_cast<std::uint8_t>(std::clamp(row[i] + noise, 0, 255));
        bits >>= 16;
      }
    }
  }
}

}  // namespace

void photograph(cv::Mat& canvas, Random& random) {
  const bool dark = random.chance(0.16);
  const double brightness = dark ? random.between(0.35, 0.6) : random.between(0.75, 1.12);
  illuminate(canvas, random, brightness);
  const double focus = random.unit();
  if (focus < 0.1) {
    shake(canvas, random);
  } else if (focus < 0.7) {
    const double blur = focus < 0.2 ? random.between(1.0, 1.5) : random.between(0.3, 0.9);
    defocus(canvas, blur * canvas.cols / kUsual);
  }
  add_noise(canvas, random, dark ? random.between(8, 20) : random.between(2, 16));
}

void crumple(cv::Mat& texture, Random& random, double strength) {
  struct Crease {
    double a, b, c, width, shade;
  };
  std::array<Crease, 4> creases;
  for (Crease& crease : creases) {
    const double half = random.between(-1.0, 1.0), x = random.unit(), y = random.unit();
    const double a = 2 * half / (1 + half * half), b = (1 - half * half) / (1 + half * half);
    crease = {a, b, -(a * x + b * y), random.between(0.06, 0.4), random.between(-strength, strength)};
  }
  for (int y = 0; y < texture.rows; ++y) {
    for (int x = 0; x < texture.cols; ++x) {
      const double u = (x + 0.5) / texture.cols, v = (y + 0.5) / texture.rows;
      double light = 1;
      for (const Crease& crease : creases) {
        const double distance = crease.a * u + crease.b * v + crease.c, near = std::abs(distance) / crease.width;
        if (near < 1) light += (distance < 0 ? -crease.shade : crease.shade) * (1 - near);
      }
      const int factor = static_cast<int>(light * 256);
      auto& texel = texture.at<cv::Vec4b>(y, x);
      for (int c = 0; c < 3; ++c) texel[c] = static_cast<std::uint8_t>(std::clamp(texel[c] * factor / 256, 0, 255));
    }
  }
}

std::vector<std::uint8_t> to_jpeg(const cv::Mat& canvas, Random& random) {
  const bool twice = random.chance(0.15), poor = random.chance(0.3);
  const int first = random.between(40, 80), last = poor ? random.between(30, 65) : random.between(70, 95);
  std::vector<std::uint8_t> bytes;
  bool done = true;
  if (twice) {
    done = cv::imencode(".jpg", canvas, bytes, {cv::IMWRITE_JPEG_QUALITY, first});
    const cv::Mat again = cv::imdecode(bytes, cv::IMREAD_COLOR);
    done = done && !again.empty() && cv::imencode(".jpg", again, bytes, {cv::IMWRITE_JPEG_QUALITY, last});
  } else {
    done = cv::imencode(".jpg", canvas, bytes, {cv::IMWRITE_JPEG_QUALITY, last});
  }
  if (!done) throw Error(ErrorCode::kInternal, "OpenCV can't write JPEG here: it was built without");
  return bytes;
}

}  // namespace vlmzoo::app::synth
