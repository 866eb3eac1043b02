#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "report/page.hpp"
#include "vlmzoo/metrics.hpp"

/// Charts as SVG for Page::figure(), with a title and a description for those who don't see them. They take any data:
/// values that aren't finite are left out, and without any left a chart says "no data". Series beyond the fourth take
/// the colours of the first ones again.
namespace vlmzoo::app::report {

struct Series {
  std::string name;
  std::vector<std::array<double, 2>> points;  ///< x, y; in the order in which they are joined
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<Series> series = {};
  bool log_y = false;      ///< values of 0 and less are left out
  bool from_zero = false;  ///< the y axis begins at 0 even if no value does
};
Svg line_chart(const LineChart& chart);

struct Bar {
  std::string label;
  double value = 0;
  std::optional<Interval> interval;
  std::string text;  ///< at its end; empty: the value
};

struct BarChart {
  std::string title, unit;
  std::vector<Bar> bars = {};
  double high = 0;  ///< end of the axis; 0: as far as the bars need. It begins at 0
};
Svg bar_chart(const BarChart& chart);

/// Accuracy against confidence by bins, the diagonal of perfect calibration, and how many items each bin has.
Svg reliability_diagram(const std::string& title, std::span<const CalibrationBin> bins);

struct Histogram {
  std::string title, x_label;
  std::vector<std::pair<std::string, std::vector<double>>> series;  ///< name, values
  int bins = 24;
};
/// Shares of each series. The highest half percent may lie beyond the axis; then the chart says how many do.
Svg histogram(const Histogram& chart);

/// Rows: labels, columns: predictions; a cell is as dark as its share of the row. Of more than 30 classes the 30 with
/// the most mistakes are shown.
Svg confusion_chart(const std::string& title, const ConfusionMatrix& confusion, std::span<const std::string> names);

}  // namespace vlmzoo::app::report
