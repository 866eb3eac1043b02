#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "report/canvas.hpp"
#include "report/charts.hpp"

namespace vlmzoo::app::report {
namespace {

using Points = std::vector<std::array<double, 2>>;

/// More points than a chart has columns only make the file large: runs of them become their mean, the last one stays.
constexpr std::size_t kMostPoints = 500;

Points usable(const Points& points, bool log_y) {
  Points result;
  for (const auto& point : points) {
    if (std::isfinite(point[0]) && std::isfinite(point[1]) && (!log_y || point[1] > 0)) result.push_back(point);
  }
  if (result.size() <= kMostPoints) return result;
  Points thinned;
  for (std::size_t i = 0; i < kMostPoints; ++i) {
    const std::size_t begin = i * result.size() / kMostPoints, end = (i + 1) * result.size() / kMostPoints;
    std::array<double, 2> mean{};
    for (std::size_t j = begin; j < end; ++j) {
      for (std::size_t axis = 0; axis < 2; ++axis) mean[axis] += result[j][axis] / static_cast<double>(end - begin);
    }
    thinned.push_back(mean);
  }
  thinned.push_back(result.back());
  return thinned;
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  /// A single value needs room around it too.
  void widen(bool logarithmic) {
    if (logarithmic) {
      if (high / low < 1.05) low /= 1.5, high *= 1.5;
    } else if (high - low < 1e-9 * std::max(1.0, std::abs(high))) {
      const double room = high == 0 ? 1 : 0.5 * std::abs(high);
      low -= room, high += room;
    }
  }
};

std::string describe(const std::vector<std::string>& names, const std::vector<Points>& lines) {
  std::string result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (lines[i].empty()) continue;
    const auto [first, last] = std::pair(lines[i].front(), lines[i].back());
    result += fmt::format("{}: from {} at {} to {} at {}. ", names[i], short_number(first[1]), short_number(first[0]),
                          short_number(last[1]), short_number(last[0]));
  }
  return result;
}

}  // namespace

Svg line_chart(const LineChart& chart) {
  std::vector<Points> lines;
  std::vector<std::string> names;
  Range xs, ys;
  for (const Series& series : chart.series) {
    lines.push_back(usable(series.points, chart.log_y));
    names.push_back(series.name);
    for (const auto& [x, y] : lines.back()) {
      xs.add(x);
      ys.add(y);
    }
  }
  if (xs.low > xs.high) return empty_chart(chart.title);
  if (chart.from_zero && !chart.log_y) ys.add(0);
  xs.widen(false);
  ys.widen(chart.log_y);

  Canvas canvas(480, 300);
  const Scale x{xs.low, xs.high, 62, 468}, y{ys.low, ys.high, 252, names.size() > 1 ? 50.0 : 34.0, chart.log_y};
  canvas.text(8, 18, chart.title, "heading");
  if (names.size() > 1) canvas.legend(62, 38, names);
  draw_axes(canvas, x, y, chart.x_label, chart.y_label);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    Points placed;
    for (const auto& [px, py] : lines[i]) placed.push_back({x.at(px), y.at(py)});
    canvas.polyline(placed, series_class(i));
    if (placed.size() > 40) continue;
    for (std::size_t j = 0; j < placed.size(); ++j) {
      canvas.circle(placed[j][0], placed[j][1], 3, series_class(i),
                    fmt::format("{}: {} at {}", names[i], short_number(lines[i][j][1]), short_number(lines[i][j][0])));
    }
  }
  return canvas.finish(chart.title, describe(names, lines));
}

}  // namespace vlmzoo::app::report
