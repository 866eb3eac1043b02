#pragma once

#include <opencv2/core.hpp>

#include "vlmzoo/random.hpp"

namespace vlmzoo::app::synth {

/// Till paper: nearly white, sometimes yellow, pink or blue.
cv::Scalar paper_colour(Random& random);

/// A receipt as it came out of the till: shop, date, items whose prices add up to the total, how it was paid, mostly a
/// bar code. CV_8UC4, about 165 wide and 1.5 to 3.5 times as high; clear where its end is torn.
cv::Mat draw_receipt(Random& random);

}  // namespace vlmzoo::app::synth
