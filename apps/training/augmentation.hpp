#pragma once

#include <span>
#include <string>

#include "vlmzoo/image.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo::app {

/// A change of a picture that keeps its label.
struct Augmentation {
  bool mirrored = false, upside_down = false;
  int quarter_turns = 0;                ///< clockwise, 0 to 3
  double contrast = 1, brightness = 0;  ///< value · contrast + brightness, of 0 to 255
};

/// One draw of those that `names` allow (training.augmentations): flip, rotate, brightness.
Augmentation draw_augmentation(std::span<const std::string> names, Random& random);

/// Where things lie changes as in augmented(); brightness stays.
Image moved(const Image& image, const Augmentation& augmentation);
Image augmented(const Image& image, const Augmentation& augmentation);

}  // namespace vlmzoo::app
