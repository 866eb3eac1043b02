#pragma once

#include <opencv2/core.hpp>
#include <string_view>

namespace vlmzoo::app::synth {

/// High, narrow characters of one width, drawn once with OpenCV's strokes. ASCII 32 to 95: capitals, digits, signs.
class Font {
 public:
  static constexpr int kWidth = 12, kHeight = 24;  ///< of a character; a big one is twice as wide and high
  static constexpr int kCount = 6;

  /// `which` in [0, kCount): three faces, each regular and bold. Thread-safe; lives as long as the process.
  static const Font& get(int which);

  /// Writes into a CV_8UC4 texture, cut off at its edges. Alpha stays.
  void write(cv::Mat& texture, cv::Point top_left, std::string_view text, const cv::Scalar& ink,
             bool big = false) const;

 private:
  Font(int face, int thickness);

  cv::Mat normal_, big_;  // coverage 0 to 255, characters side by side
};

}  // namespace vlmzoo::app::synth
