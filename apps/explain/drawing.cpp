#include "explain/drawing.hpp"

#include <algorithm>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

constexpr int kMargin = 24, kGap = 4, kLine = 22, kMostSide = 960, kSmallTile = 280, kPicture = 560;
const cv::Scalar kPaper(255, 255, 255), kInk(30, 30, 30), kFrame(160, 160, 160);
// Okabe and Ito's colours, told apart by colour-blind readers too; BGR.
const std::vector<cv::Scalar> kColours = {{178, 114, 0}, {0, 94, 213}, {115, 158, 0}, {167, 121, 204}};

const cv::Scalar& colour_of(std::size_t model) { return kColours[model % kColours.size()]; }

void write(cv::Mat& canvas, cv::Point top_left, std::string text, const cv::Scalar& ink, bool title = false) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < 0x20 || c > 0x7E; }, '?');
  cv::putText(canvas, text, top_left + cv::Point(0, 15), cv::FONT_HERSHEY_SIMPLEX, title ? 0.6 : 0.48, ink,
              title ? 2 : 1, cv::LINE_AA);
}

int text_width(const std::string& text, bool title = false) {
  int below = 0;
  return cv::getTextSize(text, cv::FONT_HERSHEY_SIMPLEX, title ? 0.6 : 0.48, title ? 2 : 1, &below).width;
}

/// Diagonal lines where `valid` is 0: padding looks like no picture does.
void hatch(cv::Mat& tile, const cv::Mat& valid) {
  for (int y = 0; y < tile.rows; ++y) {
    for (int x = 0; x < tile.cols; ++x) {
      if (valid.at<std::uint8_t>(y, x) == 0 && (x + y) % 12 < 2) tile.at<cv::Vec3b>(y, x) = cv::Vec3b(80, 80, 230);
    }
  }
}

/// Side of a tile on the page.
int drawn_side(const PictureView& view) {
  const int side = view.side, most = kMostSide / std::max({view.columns, view.rows, 1});
  if (side > most) return most;
  return side * std::max(1, std::min(most, kSmallTile) / side);
}

cv::Mat drawn_tile(const TileView& tile, int side) {
  cv::Mat result, valid;
  const int how = side < tile.pixels.rows ? cv::INTER_AREA : cv::INTER_NEAREST;
  cv::resize(tile.pixels, result, {side, side}, 0, 0, how);
  cv::resize(tile.valid, valid, {side, side}, 0, 0, cv::INTER_NEAREST);
  hatch(result, valid);
  return result;
}

cv::Mat draw_panel(const Panel& panel, const cv::Scalar& colour) {
  const PictureView& view = panel.view;
  const int side = drawn_side(view), pitch = side + kGap;
  const bool overview = view.has_overview();
  int width = view.columns * pitch + (overview ? kMargin + pitch : 0);
  for (const std::string& line : panel.lines) width = std::max(width, text_width(line));
  width = std::max(width, text_width(panel.title, /*title=*/true));
  const int lines = static_cast<int>(panel.lines.size()), top = kLine + 8;
  cv::Mat canvas(top + std::max(view.rows, 1) * pitch + kLine + lines * kLine, width + 2, CV_8UC3, kPaper);
  write(canvas, {0, 2}, panel.title, colour, /*title=*/true);
  for (const TileView& tile : view.tiles) {
    const cv::Point at = tile.overview ? cv::Point(view.columns * pitch + kMargin, top)
                                       : cv::Point(tile.column * pitch, top + tile.row * pitch);
    drawn_tile(tile, side).copyTo(canvas(cv::Rect(at, cv::Size(side, side))));
    cv::rectangle(canvas, cv::Rect(at, cv::Size(side, side)), colour);
    if (tile.overview) write(canvas, {at.x, at.y + side + 2}, "overview", kInk);
  }
  for (int i = 0; i < lines; ++i) {
    write(canvas, {0, top + std::max(view.rows, 1) * pitch + kLine + i * kLine - 6},
          panel.lines[static_cast<std::size_t>(i)], kInk);
  }
  return canvas;
}

/// The picture itself, with the outlines of every model's tiles.
cv::Mat draw_picture(const PictureRow& row) {
  const auto width = static_cast<int>(row.image.width), height = static_cast<int>(row.image.height);
  const cv::Mat rgb(height, width, CV_8UC3, const_cast<std::uint8_t*>(row.image.pixels.data()));
  const double scale = std::min(1.0, static_cast<double>(kPicture) / std::max(width, height));
  cv::Mat small, picture;
  const cv::Size size(std::max(1, static_cast<int>(width * scale)), std::max(1, static_cast<int>(height * scale)));
  cv::resize(rgb, small, size, 0, 0, cv::INTER_AREA);
  cv::cvtColor(small, picture, cv::COLOR_RGB2BGR);
  const int top = kLine + 8;
  cv::Mat canvas(top + size.height + 2, std::max(size.width + 2, text_width(row.title, /*title=*/true)), CV_8UC3,
                 kPaper);
  write(canvas, {0, 2}, row.title, kInk, /*title=*/true);
  for (std::size_t model = 0; model < row.panels.size(); ++model) {
    for (const TileView& tile : row.panels[model].view.tiles) {
      if (tile.overview) continue;
      // Of several models each draws further inside, so that lines in one place stay apart.
      const auto inset = static_cast<double>(3 * model);
      const cv::Point from(static_cast<int>(tile.region.left * scale + inset),
                           static_cast<int>(tile.region.top * scale + inset));
      const cv::Point to(static_cast<int>(tile.region.right * scale - 1 - inset),
                         static_cast<int>(tile.region.bottom * scale - 1 - inset));
      cv::rectangle(picture, from, to, colour_of(model), 2);
    }
  }
  picture.copyTo(canvas(cv::Rect(0, top, size.width, size.height)));
  cv::rectangle(canvas, cv::Rect(0, top, size.width, size.height), kFrame);
  return canvas;
}

/// Side by side, tops level, or below each other.
cv::Mat join(const std::vector<cv::Mat>& parts, bool below) {
  int along = kMargin, across = 0;
  for (const cv::Mat& part : parts) {
    along += (below ? part.rows : part.cols) + kMargin;
    across = std::max(across, below ? part.cols : part.rows);
  }
  cv::Mat result(below ? along : across, below ? across : along, CV_8UC3, kPaper);
  int at = kMargin;
  for (const cv::Mat& part : parts) {
    part.copyTo(result(cv::Rect(below ? cv::Point(0, at) : cv::Point(at, 0), part.size())));
    at += (below ? part.rows : part.cols) + kMargin;
  }
  return result;
}

}  // namespace

std::vector<std::uint8_t> draw(const std::vector<PictureRow>& rows) {
  std::vector<cv::Mat> drawn;
  for (const PictureRow& row : rows) {
    std::vector<cv::Mat> parts = {draw_picture(row)};
    for (std::size_t i = 0; i < row.panels.size(); ++i) parts.push_back(draw_panel(row.panels[i], colour_of(i)));
    drawn.push_back(join(parts, /*below=*/false));
  }
  std::vector<std::uint8_t> bytes;
  if (!cv::imencode(".png", join(drawn, /*below=*/true), bytes)) {
    throw Error(ErrorCode::kInternal, "OpenCV can't write PNG here");
  }
  return bytes;
}

}  // namespace vlmzoo::app
