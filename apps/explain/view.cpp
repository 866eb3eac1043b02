#include "explain/view.hpp"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

/// fp32 [N, 3, S, S]: every tile, empty ones too.
at::Tensor tiles_of(const Model& model, const Image& image) {
  const Request request{"", {image}};
  const at::Tensor pixels = model.preprocess({&request, 1}, /*vision_only=*/true).pixel_values;
  if (!pixels.defined() || pixels.dim() < 4 || pixels.size(-3) != 3 || pixels.size(-1) != pixels.size(-2)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} makes no square tiles of three channels of a picture; what it sees can't be drawn",
                            model.info().model_type));
  }
  return pixels.reshape({-1, 3, pixels.size(-2), pixels.size(-1)}).cpu().contiguous();
}

Image filled(std::int64_t width, std::int64_t height, std::uint8_t value) {
  return {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3), value)};
}

/// Red tells how far right a pixel lies, green how far down.
Image coordinates(std::int64_t width, std::int64_t height) {
  Image image = filled(width, height, 0);
  const auto part = [](std::int64_t at, std::int64_t size) {
    return size < 2 ? std::uint8_t{0} : static_cast<std::uint8_t>((2 * at * 255 + size - 1) / (2 * (size - 1)));
  };
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      std::uint8_t* pixel = &image.pixels[static_cast<std::size_t>((y * width + x) * 3)];
      pixel[0] = part(x, width);
      pixel[1] = part(y, height);
    }
  }
  return image;
}

/// Undoes the adapter's normalisation: what it makes of black and of white, per channel.
class PixelDecoder {
 public:
  PixelDecoder(const Model& model, std::int64_t side) {
    const at::Tensor black = tiles_of(model, filled(side, side, 0)), white = tiles_of(model, filled(side, side, 255));
    const std::int64_t middle = black.size(-1) / 2;
    for (std::int64_t c = 0; c < 3; ++c) {
      black_[static_cast<std::size_t>(c)] = black[0][c][middle][middle].item<float>();
      white_[static_cast<std::size_t>(c)] = white[0][c][middle][middle].item<float>();
      if (black_[static_cast<std::size_t>(c)] == white_[static_cast<std::size_t>(c)]) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{} makes the same of black and of white; what it sees can't be drawn",
                                model.info().model_type));
      }
    }
  }

  /// CV_32FC3 [S, S] RGB, 0 to 255, of a tile [3, S, S].
  cv::Mat decode(const at::Tensor& tile) const {
    const auto side = static_cast<int>(tile.size(-1));
    const float* values = tile.const_data_ptr<float>();
    cv::Mat result(side, side, CV_32FC3);
    for (int y = 0; y < side; ++y) {
      for (int x = 0; x < side; ++x) {
        for (int c = 0; c < 3; ++c) {
          const float value = values[(c * side + y) * side + x];
          const auto channel = static_cast<std::size_t>(c);
          result.at<cv::Vec3f>(y, x)[c] = 255 * (value - black_[channel]) / (white_[channel] - black_[channel]);
        }
      }
    }
    return result;
  }

 private:
  std::array<float, 3> black_{}, white_{};
};

/// White stays white where the picture is; unused tiles are the mean at most, which isn't.
cv::Mat valid_part(const cv::Mat& white) {
  cv::Mat mask;
  cv::inRange(white, cv::Scalar(230, 230, 230), cv::Scalar(1e6, 1e6, 1e6), mask);
  return mask;
}

/// Ends of a tile's valid part along one axis in pixels of the picture, `size` of them: a straight line through the
/// coordinates that its columns (rows) show. Source: least squares.
std::pair<double, double> extent(const std::vector<std::pair<double, double>>& points, std::int64_t size) {
  const auto n = static_cast<double>(points.size());
  double mean_at = 0, mean_value = 0, covariance = 0, variance = 0;
  for (const auto& [at, value] : points) {
    mean_at += at / n;
    mean_value += value / n;
  }
  for (const auto& [at, value] : points) {
    covariance += (at - mean_at) * (value - mean_value);
    variance += (at - mean_at) * (at - mean_at);
  }
  const auto length = static_cast<double>(size);
  // One column or a picture of one pixel: no line to lay.
  if (variance == 0 || size < 2) return {0, length};
  const double slope = covariance / variance;
  const auto place = [&](double at) {  // of the edge, half a pixel outside of the last centre
    const double value = mean_value + slope * (at - mean_at), step = length / 255;
    const double result = value / 255 * (length - 1) + 0.5;
    return result < 0.4 * step ? 0 : result > length - 0.4 * step ? length : result;
  };
  return {place(points.front().first - 0.5), place(points.back().first + 0.5)};
}

Region region_of(const cv::Mat& coordinates, const cv::Mat& valid, const Image& image) {
  std::vector<std::pair<double, double>> across, down;
  const auto collect = [&](int i, const cv::Mat& line, const cv::Mat& mask, int channel, auto& points) {
    if (cv::countNonZero(mask) > 0) points.emplace_back(i, cv::mean(line, mask)[channel]);
  };
  for (int i = 0; i < valid.cols; ++i) {
    collect(i, coordinates.col(i), valid.col(i), 0, across);
    collect(i, coordinates.row(i), valid.row(i), 1, down);
  }
  const auto [left, right] = extent(across, image.width);
  const auto [top, bottom] = extent(down, image.height);
  return {left, top, right, bottom};
}

/// The numbers of the steps on which values lie, when those closer than `near` are one.
std::vector<int> steps(const std::vector<double>& values, double near, int& count) {
  std::vector<double> sorted = values, levels;
  std::sort(sorted.begin(), sorted.end());
  for (const double value : sorted) {
    if (levels.empty() || value - levels.back() > near) levels.push_back(value);
  }
  count = static_cast<int>(levels.size());
  std::vector<int> result;
  for (const double value : values) {
    result.push_back(static_cast<int>(std::upper_bound(levels.begin(), levels.end(), value + 1e-9) - levels.begin()) -
                     1);
  }
  return result;
}

Region bounds(const std::vector<TileView>& tiles, const TileView* without = nullptr) {
  Region result{1e300, 1e300, -1e300, -1e300};
  for (const TileView& tile : tiles) {
    if (&tile == without || tile.overview) continue;
    result = {std::min(result.left, tile.region.left), std::min(result.top, tile.region.top),
              std::max(result.right, tile.region.right), std::max(result.bottom, tile.region.bottom)};
  }
  return result;
}

void find_overview(std::vector<TileView>& tiles) {
  if (tiles.size() < 3) return;
  for (TileView& tile : tiles) {
    const Region others = bounds(tiles, &tile);
    const double slack_x = (others.right - others.left) / 50, slack_y = (others.bottom - others.top) / 50;
    tile.overview = tile.region.left <= others.left + slack_x && tile.region.right >= others.right - slack_x &&
                    tile.region.top <= others.top + slack_y && tile.region.bottom >= others.bottom - slack_y;
    if (tile.overview) return;
  }
}

void lay_out(PictureView& view, const Image& image) {
  find_overview(view.tiles);
  std::vector<double> lefts, tops;
  double widest = 0, highest = 0, padded = 0, across = 0, down = 0, count = 0;
  std::vector<TileView*> grid;
  for (TileView& tile : view.tiles) {
    if (tile.overview) continue;
    grid.push_back(&tile);
    lefts.push_back(tile.region.left);
    tops.push_back(tile.region.top);
    widest = std::max(widest, tile.region.right - tile.region.left);
    highest = std::max(highest, tile.region.bottom - tile.region.top);
    const cv::Rect box = cv::boundingRect(tile.valid);
    across += box.width / (tile.region.right - tile.region.left);
    down += box.height / (tile.region.bottom - tile.region.top);
    padded += 1 - cv::countNonZero(tile.valid) / static_cast<double>(tile.valid.total());
    ++count;
  }
  const std::vector<int> columns = steps(lefts, widest / 2, view.columns), rows = steps(tops, highest / 2, view.rows);
  for (std::size_t i = 0; i < grid.size(); ++i) {
    grid[i]->column = columns[i];
    grid[i]->row = rows[i];
  }
  view.padding = padded / count;
  view.scale_x = across / count;
  view.scale_y = down / count;
  view.cut_off = std::max(0.0, 1 - bounds(view.tiles).area() / static_cast<double>(image.width * image.height));
}

TokenBudget count_tokens(const Model& model, const Image& image, const std::string& question) {
  const auto length = [&](const std::string& text, const std::vector<Image>& images) {
    const Request request{text, images};
    return model.preprocess({&request, 1}).input_ids.size(1);
  };
  TokenBudget budget;
  budget.prompt_template = length("", {});
  const std::int64_t text = length(question, {});
  budget.question = text - budget.prompt_template;
  budget.pictures = length(question, {image}) - text;
  budget.context_length = model.info().context_length;
  return budget;
}

}  // namespace

bool PictureView::has_overview() const {
  return std::any_of(tiles.begin(), tiles.end(), [](const TileView& tile) { return tile.overview; });
}

PictureView view_picture(const Model& model, const Image& image, const std::string& question, bool with_text) {
  const at::Tensor seen = tiles_of(model, image), white = tiles_of(model, filled(image.width, image.height, 255)),
                   places = tiles_of(model, coordinates(image.width, image.height));
  const PixelDecoder decoder(model, seen.size(-1));
  PictureView view;
  view.side = static_cast<int>(seen.size(-1));
  for (std::int64_t i = 0; i < seen.size(0); ++i) {
    TileView tile;
    tile.valid = valid_part(decoder.decode(white[i]));
    if (cv::countNonZero(tile.valid) == 0) {
      ++view.empty_tiles;
      continue;
    }
    cv::Mat rgb;
    decoder.decode(seen[i]).convertTo(rgb, CV_8UC3);
    cv::cvtColor(rgb, tile.pixels, cv::COLOR_RGB2BGR);
    tile.region = region_of(decoder.decode(places[i]), tile.valid, image);
    view.tiles.push_back(std::move(tile));
  }
  if (view.tiles.empty()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: nothing of the picture is left in its tiles", model.info().model_type));
  }
  lay_out(view, image);
  view.vision_tokens = static_cast<std::int64_t>(view.tiles.size()) * model.info().tokens_per_tile;
  if (with_text) view.tokens = count_tokens(model, image, question);
  return view;
}

}  // namespace vlmzoo::app
