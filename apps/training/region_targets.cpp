#include "training/region_targets.hpp"

#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

constexpr double kCentreRadius = 0.06;  // of the shorter side: about half a patch of an 8 × 8 grid
constexpr double kInside = 0.9;         // of the blue channel

std::array<double, 3> values_of(const Model& model, std::uint8_t grey) {
  Request request;
  Image& image = request.images.emplace_back();
  image.width = image.height = model.info().image_size;
  image.pixels.assign(static_cast<std::size_t>(3 * image.width * image.height), grey);
  const at::Tensor pixels = model.preprocess({&request, 1}, /*vision_only=*/true).pixel_values;
  const std::int64_t side = pixels.size(-1);
  const at::Tensor first = pixels.reshape({-1, 3, side, side})[0];
  std::array<double, 3> values{};
  for (int channel = 0; channel < 3; ++channel) {
    values[static_cast<std::size_t>(channel)] = first[channel][side / 2][side / 2].item<double>();
  }
  return values;
}

bool is_square(std::int64_t n) {
  const auto root = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(n))));
  return n > 0 && root * root == n;
}

}  // namespace

Image draw_regions(std::span<const Region> regions, std::int64_t width, std::int64_t height) {
  Image image;
  image.width = width;
  image.height = height;
  image.pixels.resize(static_cast<std::size_t>(3 * width * height));
  cv::Mat pixels(static_cast<int>(height), static_cast<int>(width), CV_8UC3, image.pixels.data());
  pixels.setTo(cv::Scalar(0, 0, 255));
  const auto point = [&](const std::array<double, 2>& at) {
    return cv::Point(static_cast<int>(std::lround(at[0] * static_cast<double>(width))),
                     static_cast<int>(std::lround(at[1] * static_cast<double>(height))));
  };
  for (const Region& region : regions) {
    std::vector<cv::Point> corners;
    for (const auto& corner : region.corners) corners.push_back(point(corner));
    cv::fillConvexPoly(pixels, corners, cv::Scalar(255, 0, 255));
  }
  for (const Region& region : regions) {  // on top of all that is covered
    const double radius = kCentreRadius * static_cast<double>(std::min(width, height));
    cv::circle(pixels, point(region.centre()), std::max(1, static_cast<int>(std::lround(radius))),
               cv::Scalar(255, 255, 255), cv::FILLED);
  }
  return image;
}

RegionTargets::RegionTargets(const Model& model) : black_(values_of(model, 0)), white_(values_of(model, 255)) {}

std::int64_t RegionTargets::tokens_before_patches(std::int64_t tokens) {
  if (is_square(tokens - 1)) return 1;
  if (is_square(tokens)) return 0;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("training.region_loss_weight: the model's {} tokens per tile are no square of patches", tokens));
}

RegionTargets::Patches RegionTargets::operator()(const at::Tensor& pixel_values, std::int64_t tokens) const {
  const std::int64_t size = pixel_values.size(-1), patches = tokens - tokens_before_patches(tokens);
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(patches))));
  if (size % side != 0) {
    throw Error(ErrorCode::kUnsupported, fmt::format("training.region_loss_weight: tiles of {} pixels have {} × {} "
                                                     "patches, which doesn't divide",
                                                     size, side, side));
  }
  at::Tensor planes = pixel_values.reshape({-1, 3, size, size}).clone();
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    const auto i = static_cast<std::size_t>(channel);
    planes.select(1, channel).sub_(black_[i]).div_(white_[i] - black_[i]);
  }
  const at::Tensor means = at::avg_pool2d(planes, {size / side, size / side})
                               .flatten(2)
                               .transpose(1, 2)
                               .clamp(0, 1);  // [N, side², 3]; bicubic resizing overshoots
  return {means.narrow(2, 0, 2).contiguous(), means.narrow(2, 2, 1).gt(kInside).to(at::kFloat)};
}

}  // namespace vlmzoo::app
