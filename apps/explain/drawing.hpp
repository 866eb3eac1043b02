#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "explain/view.hpp"

namespace vlmzoo::app {

/// One model's view of a picture, with the words to put under it (ASCII; other characters print as '?').
struct Panel {
  std::string title;
  PictureView view;
  std::vector<std::string> lines;
};

/// A picture and what each model sees of it.
struct PictureRow {
  std::string title;
  Image image;
  std::vector<Panel> panels;
};

/// A PNG: one row per picture, on the left the picture with the outlines of all tiles, beside it each model's tiles in
/// their places. Padding is hatched. Tiles are drawn pixel by pixel where they are small enough, else reduced.
std::vector<std::uint8_t> draw(const std::vector<PictureRow>& rows);

}  // namespace vlmzoo::app
