#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "report/canvas.hpp"
#include "report/charts.hpp"

namespace vlmzoo::app::report {
namespace {

std::vector<double> finite(const std::vector<double>& values) {
  std::vector<double> result;
  std::copy_if(values.begin(), values.end(), std::back_inserter(result), [](double v) { return std::isfinite(v); });
  return result;
}

std::string text_of(const Bar& bar) {
  if (!bar.text.empty()) return bar.text;
  if (!bar.interval) return short_number(bar.value);
  const int decimals = bar.interval->high >= 100 ? 0 : bar.interval->high > 1 ? 1 : 3;
  return fmt::format("{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]", bar.value, bar.interval->low, bar.interval->high, decimals);
}

/// Bins of equal width over the values of all series.
struct Bins {
  double low = 0, high = 1;
  std::size_t count = 1;

  /// Of values in [low, high].
  std::size_t index(double value) const {
    const double place = (value - low) / (high - low) * static_cast<double>(count);
    return std::min(count - 1, static_cast<std::size_t>(std::max(0.0, place)));
  }
  double edge(std::size_t i) const { return low + (high - low) * static_cast<double>(i) / static_cast<double>(count); }
};

/// A few very high values would leave nothing to see of the others, so the axis may end before them.
Bins bins_of(const std::vector<double>& values, int count) {
  const auto [lowest, highest] = std::minmax_element(values.begin(), values.end());
  Bins bins{*lowest, *highest, static_cast<std::size_t>(std::max(1, count))};
  const double usual = percentile(values, 99.5), median = percentile(values, 50);
  if (bins.high - median > 3 * (usual - median) && usual > bins.low) bins.high = usual;
  if (bins.high - bins.low < 1e-9 * std::max(1.0, std::abs(bins.high))) bins.low -= 0.5, bins.high += 0.5;
  return bins;
}

}  // namespace

Svg bar_chart(const BarChart& chart) {
  std::vector<Bar> bars;
  std::copy_if(chart.bars.begin(), chart.bars.end(), std::back_inserter(bars), [](const Bar& bar) {
    return std::isfinite(bar.value) &&
           (!bar.interval || (std::isfinite(bar.interval->low) && std::isfinite(bar.interval->high)));
  });
  if (bars.empty()) return empty_chart(chart.title);
  double high = chart.high;
  for (const Bar& bar : bars) high = std::max({high, bar.value, bar.interval ? bar.interval->high : 0});
  if (high <= 0) high = 1;

  constexpr double kRow = 40, kTop = 30;
  const double bottom = kTop + kRow * static_cast<double>(bars.size());
  Canvas canvas(480, bottom + 42);
  const Scale x{0, high, 12, 456};
  canvas.text(8, 18, chart.title, "heading");
  for (const double tick : ticks(0, high, 5)) {
    canvas.line(x.at(tick), kTop, x.at(tick), bottom, "grid");
    canvas.text(x.at(tick), bottom + 15, short_number(tick), "muted", Anchor::kMiddle);
  }
  canvas.text(234, bottom + 34, chart.unit, "muted", Anchor::kMiddle);
  std::string description;
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double top = kTop + kRow * static_cast<double>(i);
    const std::string text = text_of(bars[i]);
    canvas.text(x.from, top + 13, cut(bars[i].label, 40));
    canvas.text(x.to, top + 13, text, "", Anchor::kEnd);
    const double end = x.at(std::max(0.0, bars[i].value));
    canvas.rect(x.from, top + 18, end - x.from, 14, series_class(i), bars[i].interval ? 0.75 : 1,
                bars[i].label + ": " + text);
    if (bars[i].interval) {
      const double low_end = x.at(std::max(0.0, bars[i].interval->low)), high_end = x.at(bars[i].interval->high);
      canvas.line(low_end, top + 25, high_end, top + 25, "whisker");
      for (const double cap : {low_end, high_end}) canvas.line(cap, top + 21, cap, top + 29, "whisker");
    }
    description += fmt::format("{}: {}. ", bars[i].label, text);
  }
  return canvas.finish(chart.title, description);
}

Svg reliability_diagram(const std::string& title, std::span<const CalibrationBin> bins) {
  std::int64_t items = 0, most = 0;
  for (const CalibrationBin& bin : bins) {
    items += bin.count;
    most = std::max(most, bin.count);
  }
  if (items == 0) return empty_chart(title);
  Canvas canvas(480, 400);
  const Scale x{0, 1, 62, 462}, y{0, 1, 352, 92}, share{0, 1, 82, 34};
  canvas.text(8, 18, title, "heading");
  draw_axes(canvas, x, y, "confidence (above: how many pictures)", "accuracy");
  canvas.line(x.from, y.from, x.to, y.to, "dashed");
  canvas.line(x.from, share.from, x.to, share.from, "axis");
  std::string description;
  for (const CalibrationBin& bin : bins) {
    if (bin.count == 0) continue;
    const std::string hint = fmt::format("{:.3f} to {:.3f}: {} pictures, confidence {:.3f}, accuracy {:.3f}", bin.low,
                                         bin.high, bin.count, bin.confidence, bin.accuracy);
    const double left = x.at(bin.low) + 1, width = x.at(bin.high) - x.at(bin.low) - 2;
    const double count_top = share.at(static_cast<double>(bin.count) / static_cast<double>(most));
    canvas.rect(left, count_top, width, share.from - count_top, "s4", 0.6, hint);
    canvas.rect(left, y.at(bin.accuracy), width, y.from - y.at(bin.accuracy), "s1", 0.45, hint);
    canvas.circle(x.at(bin.confidence), y.at(bin.accuracy), 4, "s1", hint);
    description += hint + ". ";
  }
  return canvas.finish(title, description);
}

Svg histogram(const Histogram& chart) {
  std::vector<double> all;
  std::vector<std::string> names;
  std::vector<std::vector<double>> series;
  for (const auto& [name, values] : chart.series) {
    names.push_back(name);
    series.push_back(finite(values));
    all.insert(all.end(), series.back().begin(), series.back().end());
  }
  if (all.empty()) return empty_chart(chart.title);
  const Bins bins = bins_of(all, chart.bins);
  std::vector<std::vector<double>> shares;
  double most = 0;
  std::int64_t beyond = 0;
  for (const std::vector<double>& values : series) {
    shares.emplace_back(bins.count, 0.0);
    for (const double value : values) {
      if (value > bins.high) {
        ++beyond;
        continue;
      }
      shares.back()[bins.index(value)] += 1 / static_cast<double>(values.size());
    }
    most = std::max(most, *std::max_element(shares.back().begin(), shares.back().end()));
  }

  Canvas canvas(480, 300);
  const Scale x{bins.low, bins.high, 62, 462}, y{0, most, 252, names.size() > 1 ? 50.0 : 34.0};
  canvas.text(8, 18, chart.title, "heading");
  if (names.size() > 1) canvas.legend(62, 38, names);
  draw_axes(canvas, x, y, chart.x_label + (beyond > 0 ? fmt::format(" ({} further right)", beyond) : ""), "share");
  std::string description;
  for (std::size_t i = 0; i < series.size(); ++i) {
    for (std::size_t bin = 0; bin < bins.count; ++bin) {
      if (shares[i][bin] <= 0) continue;
      const double left = x.at(bins.edge(bin)), right = x.at(bins.edge(bin + 1)), top = y.at(shares[i][bin]);
      canvas.rect(left + 0.5, top, right - left - 1, y.from - top, series_class(i), series.size() > 1 ? 0.55 : 0.85,
                  fmt::format("{}: {:.1f} % from {} to {}", names[i], 100 * shares[i][bin],
                              short_number(bins.edge(bin)), short_number(bins.edge(bin + 1))));
    }
    if (series[i].empty()) continue;
    description += fmt::format("{}: {} values, median {}, 95th percentile {}. ", names[i], series[i].size(),
                               short_number(percentile(series[i], 50)), short_number(percentile(series[i], 95)));
  }
  return canvas.finish(chart.title, description);
}

}  // namespace vlmzoo::app::report
