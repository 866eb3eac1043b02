#pragma once

#include <opencv2/core.hpp>

#include "vlmzoo/random.hpp"

namespace vlmzoo::app::synth {

/// What lies on a table besides receipts.
struct Thing {
  cv::Mat texture;    ///< CV_8UC4
  double width = 0;   ///< in sides of the picture
  double height = 0;  ///< above the table, in sides of the picture: how far its shadow falls
  bool paper = false;
};

/// A blank slip or sheet, squared or written paper, a card, banknote, phone, envelope, box, book, pen, coin or ring.
Thing draw_distractor(Random& random);

}  // namespace vlmzoo::app::synth
