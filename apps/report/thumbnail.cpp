#include <algorithm>
#include <cmath>
#include <cstdint>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <vector>

#include "report/page.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo::app::report {
namespace {

std::string base64(const std::vector<std::uint8_t>& bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string result;
  result.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = std::uint32_t{bytes[i]} << 16;
    if (i + 1 < bytes.size()) group |= std::uint32_t{bytes[i + 1]} << 8;
    if (i + 2 < bytes.size()) group |= bytes[i + 2];
    for (std::size_t digit = 0; digit < 4; ++digit) {
      result += i + digit > bytes.size() ? '=' : kDigits[group >> (18 - 6 * digit) & 63];
    }
  }
  return result;
}

}  // namespace

std::string thumbnail_url(const std::filesystem::path& image, int side) {
  Image picture = load_image(image);
  const cv::Mat whole(static_cast<int>(picture.height), static_cast<int>(picture.width), CV_8UC3,
                      picture.pixels.data());
  const double scale = std::min(1.0, static_cast<double>(side) / static_cast<double>(std::max(whole.rows, whole.cols)));
  const auto scaled = [scale](int length) { return std::max(1, static_cast<int>(std::lround(scale * length))); };
  cv::Mat small;
  cv::resize(whole, small, cv::Size(scaled(whole.cols), scaled(whole.rows)), 0, 0, cv::INTER_AREA);
  cv::cvtColor(small, small, cv::COLOR_RGB2BGR);
  std::vector<std::uint8_t> bytes;
  if (!cv::imencode(".jpg", small, bytes, {cv::IMWRITE_JPEG_QUALITY, 80})) {
    throw Error(ErrorCode::kInternal, image.string() + ": its thumbnail can't be encoded");
  }
  return "data:image/jpeg;base64," + base64(bytes);
}

}  // namespace vlmzoo::app::report
