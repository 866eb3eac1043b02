#include <fmt/format.h>

#include <cstddef>
#include <new>
#include <opencv2/core.hpp>
#include <opencv2/core/utility.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "image_header.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo {
namespace {

cv::Mat upright(const cv::Mat& stored, int orientation) {
  cv::Mat turned = stored;
  if (orientation >= 5) cv::transpose(stored, turned);  // 5-8: rows and columns change places
  constexpr int kBoth = -1, kTopBottom = 0, kLeftRight = 1;
  switch (orientation) {
    case 2:
    case 6:
      cv::flip(turned, turned, kLeftRight);
      break;
    case 3:
    case 7:
      cv::flip(turned, turned, kBoth);
      break;
    case 4:
    case 8:
      cv::flip(turned, turned, kTopBottom);
      break;
    default:
      break;
  }
  return turned;
}

[[noreturn]] void throw_no_memory(const ImageHeader& header, const std::string& where) {
  throw Error(ErrorCode::kMemory,
              fmt::format("{}: not enough memory for {}×{} pixels", where, header.width, header.height));
}

Image decode(const ImageHeader& header, const std::string& where) {
  [[maybe_unused]] static const bool once = (cv::setNumThreads(1), true);  // threads belong to the caller
  const cv::Mat stream(1, static_cast<int>(header.stream.size()), CV_8UC1,
                       const_cast<std::uint8_t*>(header.stream.data()));
  // 16-bit colour gets its high byte here, as in Pillow; 16-bit grey is clipped there, so it has to arrive whole.
  const int flags = header.grey16 ? cv::IMREAD_ANYDEPTH : cv::IMREAD_COLOR;
  cv::Mat stored = cv::imdecode(stream, flags | cv::IMREAD_IGNORE_ORIENTATION);
  if (stored.empty() || stored.cols != header.width || stored.rows != header.height)
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: the picture data can't be decoded", where));
  if (header.grey16) stored.convertTo(stored, CV_8U);  // saturates

  const cv::Mat turned = upright(stored, header.orientation);
  Image image{turned.cols, turned.rows, std::vector<std::uint8_t>(turned.total() * 3)};
  cv::Mat rgb(turned.rows, turned.cols, CV_8UC3, image.pixels.data());
  cv::cvtColor(turned, rgb, header.grey16 ? cv::COLOR_GRAY2RGB : cv::COLOR_BGR2RGB);
  return image;
}

}  // namespace

Image decode_image(std::span<const std::uint8_t> bytes, const std::string& where) {
  constexpr std::size_t kLargestFile = std::size_t{1} << 30;  // OpenCV counts the bytes with an int
  if (bytes.size() > kLargestFile)
    throw Error(ErrorCode::kMemory, fmt::format("{}: {} bytes; the limit is {}", where, bytes.size(), kLargestFile));
  const ImageHeader header = read_image_header(bytes, where);
  if (header.grey16) warn_once(fmt::format("{}: 16-bit grey is clipped at 255, as Pillow does", where));
  if (header.cmyk)
    warn_once(fmt::format("{}: CMYK JPEG; its colours may differ from Pillow's by up to 2 of 255", where));
  try {
    return decode(header, where);
  } catch (const cv::Exception& error) {
    if (error.code == cv::Error::StsNoMem) throw_no_memory(header, where);
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: the picture data can't be decoded ({})", where, error.err));
  } catch (const std::bad_alloc&) {
    throw_no_memory(header, where);
  }
}

Image load_image(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  return decode_image({reinterpret_cast<const std::uint8_t*>(content.data()), content.size()}, path.string());
}

}  // namespace vlmzoo
