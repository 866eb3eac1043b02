#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

#include "vlmzoo/random.hpp"

namespace vlmzoo::app::synth {

/// What lies between a table and its photograph, in this order: light that falls off and shadows of things out of
/// sight, a colour cast, often too little of it; a lens out of focus or moved; noise, more in the dark. `canvas` is
/// CV_8UC3 and stays so.
void photograph(cv::Mat& canvas, Random& random);

/// A crease runs light on one side and dark on the other: `texture` (CV_8UC4) as paper that was folded and crumpled.
void crumple(cv::Mat& texture, Random& random, double strength);

/// JPEG, in a quality between good and poor, sometimes saved twice. Error: kInternal.
std::vector<std::uint8_t> to_jpeg(const cv::Mat& canvas, Random& random);

}  // namespace vlmzoo::app::synth
