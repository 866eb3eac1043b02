#include "training/augmentation.hpp"

#include <algorithm>
#include <opencv2/core.hpp>

namespace vlmzoo::app {
namespace {

bool has(std::span<const std::string> names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// A view; OpenCV knows no pictures that can't be written to.
cv::Mat view(const Image& image) {
  return {static_cast<int>(image.height), static_cast<int>(image.width), CV_8UC3,
          const_cast<std::uint8_t*>(image.pixels.data())};
}

Image copy_of(const cv::Mat& pixels) {
  Image image;
  image.width = pixels.cols;
  image.height = pixels.rows;
  const cv::Mat whole = pixels.isContinuous() ? pixels : pixels.clone();
  image.pixels.assign(whole.data, whole.data + whole.total() * whole.elemSize());
  return image;
}

/// Into memory of its own: OpenCV would turn a picture in its place.
cv::Mat move(const cv::Mat& pixels, const Augmentation& augmentation) {
  cv::Mat flipped, turned;
  if (augmentation.mirrored && augmentation.upside_down) {
    cv::flip(pixels, flipped, -1);
  } else if (augmentation.mirrored || augmentation.upside_down) {
    cv::flip(pixels, flipped, augmentation.mirrored ? 1 : 0);
  } else {
    flipped = pixels;
  }
  if (augmentation.quarter_turns == 0) return flipped;
  cv::rotate(flipped, turned, augmentation.quarter_turns - 1);  // 0: 90° clockwise, 1: 180°, 2: 90° the other way
  return turned;
}

}  // namespace

Augmentation draw_augmentation(std::span<const std::string> names, Random& random) {
  Augmentation drawn;
  if (has(names, "flip")) {
    drawn.mirrored = random.chance(0.5);
    drawn.upside_down = random.chance(0.5);
  }
  if (has(names, "rotate")) drawn.quarter_turns = random.between(0, 3);
  if (has(names, "brightness")) {
    drawn.contrast = random.between(0.8, 1.25);
    drawn.brightness = random.between(-20.0, 20.0);
  }
  return drawn;
}

Image moved(const Image& image, const Augmentation& augmentation) {
  const cv::Mat source = view(image);
  return copy_of(move(source, augmentation));
}

Image augmented(const Image& image, const Augmentation& augmentation) {
  cv::Mat pixels = move(view(image), augmentation);
  if (augmentation.contrast != 1 || augmentation.brightness != 0) {
    cv::Mat lit;
    pixels.convertTo(lit, CV_8UC3, augmentation.contrast, augmentation.brightness);
    pixels = lit;
  }
  return copy_of(pixels);
}

}  // namespace vlmzoo::app
