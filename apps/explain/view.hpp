#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <optional>
#include <string>
#include <vector>

#include "vlmzoo/image.hpp"
#include "vlmzoo/model.hpp"

/// What a model gets to see of a picture. Everything is read off the adapter's own pixel_values, for any adapter:
/// pixels are scaled back with what it makes of black and of white, padding is where a white picture isn't white, and a
/// picture of coordinates tells which part each tile shows.
namespace vlmzoo::app {

/// Part of a picture, in its pixels.
struct Region {
  double left = 0, top = 0, right = 0, bottom = 0;

  double area() const { return (right - left) * (bottom - top); }
};

struct TileView {
  cv::Mat pixels;  ///< CV_8UC3 [S, S], BGR: as the model gets it
  cv::Mat valid;   ///< CV_8UC1 [S, S]: 255 where the picture is, 0 on padding
  Region region;   ///< what of the picture it shows
  int column = 0, row = 0;
  bool overview = false;  ///< shows what all others show together
};

/// Tokens of a prompt with the picture, by what they are spent on.
struct TokenBudget {
  std::int64_t prompt_template = 0, question = 0, pictures = 0, context_length = 0;

  std::int64_t total() const { return prompt_template + question + pictures; }
};

struct PictureView {
  std::vector<TileView> tiles;      ///< those with something of the picture in them, in the adapter's order
  std::int64_t empty_tiles = 0;     ///< that the adapter adds beside
  int side = 0;                     ///< S, of each tile
  int columns = 0, rows = 0;        ///< grid of the tiles that are no overview
  double padding = 0;               ///< share of their pixels
  double cut_off = 0;               ///< share of the picture that no tile shows
  double scale_x = 1, scale_y = 1;  ///< pixels in the grid per pixel of the picture
  std::int64_t vision_tokens = 0;
  std::optional<TokenBudget> tokens;  ///< none without a tokenizer

  bool has_overview() const;
};

/// How `model` (a plan is enough) sees one picture; `with_text`: the tokens of `question` too. Errors: those of
/// preprocess(), kUnsupported when pixel_values aren't [..., 3, S, S].
PictureView view_picture(const Model& model, const Image& image, const std::string& question, bool with_text);

}  // namespace vlmzoo::app
