#include "synth/font.hpp"

#include <algorithm>
#include <array>
#include <opencv2/imgproc.hpp>
#include <string>

namespace vlmzoo::app::synth {
namespace {

constexpr int kFirst = 32, kCharacters = 64;
constexpr int kFine = 4;    // strokes are drawn that much larger, then averaged,
constexpr int kDrawn = 18;  // and this high, then stretched: tills print high letters

cv::Mat halved(const cv::Mat& image) {
  cv::Mat half;
  cv::resize(image, half, cv::Size(image.cols / 2, image.rows / 2), 0, 0, cv::INTER_AREA);
  return half;
}

void draw_character(cv::Mat& cell, const std::string& text, int face, int thickness) {
  const double unit = cv::getTextSize("0", face, /*fontScale=*/1, /*thickness=*/1, nullptr).height;
  double scale = 0.68 * cell.rows / unit;
  const int widest = cell.cols - thickness - 2;
  int width = cv::getTextSize(text, face, scale, /*thickness=*/1, nullptr).width;
  if (width > widest) scale = scale * widest / width;
  width = cv::getTextSize(text, face, scale, /*thickness=*/1, nullptr).width;
  const cv::Point baseline((cell.cols - width) / 2, cell.rows * 27 / 32);
  cv::putText(cell, text, baseline, face, scale, cv::Scalar(255), thickness, cv::LINE_8);
}

}  // namespace

Font::Font(int face, int thickness) {
  cv::Mat drawn = cv::Mat::zeros(kDrawn * kFine, kWidth * kFine * kCharacters, CV_8UC1), fine;
  for (int i = 0; i < kCharacters; ++i) {
    cv::Mat cell = drawn.colRange(i * kWidth * kFine, (i + 1) * kWidth * kFine);
    draw_character(cell, std::string(1, static_cast<char>(kFirst + i)), face, thickness);
  }
  cv::resize(drawn, fine, cv::Size(drawn.cols, kHeight * kFine), 0, 0, cv::INTER_LINEAR_EXACT);
  big_ = halved(fine);
  normal_ = halved(big_);
}

const Font& Font::get(int which) {
  static const std::array<Font, kCount> fonts = {Font(cv::FONT_HERSHEY_SIMPLEX, 6), Font(cv::FONT_HERSHEY_SIMPLEX, 9),
                                                 Font(cv::FONT_HERSHEY_DUPLEX, 5),  Font(cv::FONT_HERSHEY_DUPLEX, 8),
                                                 Font(cv::FONT_HERSHEY_COMPLEX, 5), Font(cv::FONT_HERSHEY_COMPLEX, 8)};
  return fonts[static_cast<std::size_t>(which)];
}

void Font::write(cv::Mat& texture, cv::Point top_left, std::string_view text, const cv::Scalar& ink, bool big) const {
  const cv::Mat& atlas = big ? big_ : normal_;
  const int width = big ? 2 * kWidth : kWidth;
  const cv::Rect whole(0, 0, texture.cols, texture.rows);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const int index = std::clamp(text[i] - kFirst, 0, kCharacters - 1);
    const cv::Point at(top_left.x + static_cast<int>(i) * width, top_left.y);
    const cv::Rect cell = cv::Rect(at, cv::Size(width, atlas.rows)) & whole;
    for (int y = cell.y; y < cell.y + cell.height; ++y) {
      const auto* coverage = atlas.ptr<std::uint8_t>(y - at.y) + index * width - at.x;
      for (int x = cell.x; x < cell.x + cell.width; ++x) {
        auto& texel = texture.at<cv::Vec4b>(y, x);
        for (int c = 0; c < 3; ++c) {
          texel[c] = static_cast<std::uint8_t>(texel[c] + (static_cast<int>(ink[c]) - texel[c]) * coverage[x] / 255);
        }
      }
    }
  }
}

}  // namespace vlmzoo::app::synth
