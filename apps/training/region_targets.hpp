#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <span>

#include "data/regions.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo::app {

/// A picture of the size of another that says where its regions lie: red where one covers it, green around the centre
/// of one, blue everywhere. The same augmentation and the model's own preprocessing take it to where the model sees
/// them, tiles and padding included, without knowing the model.
Image draw_regions(std::span<const Region> regions, std::int64_t width, std::int64_t height);

/// Turns the pixel values of such pictures into targets of the model's patches.
class RegionTargets {
 public:
  /// Learns the model's normalisation from a black and a white picture.
  explicit RegionTargets(const Model& model);

  struct Patches {
    at::Tensor targets;  ///< fp32 [N, side², 2] in [0, 1]: covered, near a centre
    at::Tensor weights;  ///< fp32 [N, side², 1]: 1 where the picture is, 0 in padding
  };
  /// `pixel_values` [..., 3, S, S] of N tiles in all; `tokens` of the model's per tile: patches row by row, or those
  /// behind a class token. Error: kUnsupported when they are no square.
  Patches operator()(const at::Tensor& pixel_values, std::int64_t tokens) const;
  /// How many tokens of a tile come before its patches: 0 or 1. Error: kUnsupported.
  static std::int64_t tokens_before_patches(std::int64_t tokens);

 private:
  std::array<double, 3> black_{}, white_{};
};

}  // namespace vlmzoo::app
