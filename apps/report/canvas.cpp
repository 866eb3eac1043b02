#include "report/canvas.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace vlmzoo::app::report {
namespace {

const char* name_of(Anchor anchor) {
  return anchor == Anchor::kStart ? "start" : anchor == Anchor::kMiddle ? "middle" : "end";
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string hint_of(const std::string& hint) {
  return hint.empty() ? std::string() : fmt::format("<title>{}</title>", escaped(hint));
}

}  // namespace

double Scale::at(double value) const {
  const auto place = [this](double v) { return logarithmic ? std::log(v) : v; };
  return from + (to - from) * (place(value) - place(low)) / (place(high) - place(low));
}

std::vector<double> ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> result;
  const double slack = 1e-9 * step;
  for (double i = std::ceil((low - slack) / step); i * step <= high + slack && std::ssize(result) < 100; ++i) {
    result.push_back(i * step);
  }
  return result;
}

std::vector<double> logarithmic_ticks(double low, double high) {
  std::vector<double> result;
  const bool few = high / low < 1e3;
  for (double power = std::floor(std::log10(low)); power <= std::log10(high) && result.size() < 100; ++power) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double value = factor * std::pow(10, power);
      if ((factor == 1 || few) && value >= low * 0.999 && value <= high * 1.001) result.push_back(value);
    }
  }
  return result;
}

std::string short_number(double value) {
  if (std::abs(value) < 1e-12) return "0";
  return fmt::format("{:.4g}", value);
}

const char* series_class(std::size_t index) {
  static constexpr std::array kClasses = {"s1", "s2", "s3", "s4"};
  return kClasses[index % kClasses.size()];
}

std::string cut(const std::string& text, std::size_t length) {
  if (characters(text) <= length) return text;
  std::size_t end = 0, seen = 0;
  while (end < text.size()) {
    if ((static_cast<unsigned char>(text[end]) & 0xC0) != 0x80 && seen++ == length - 1) break;
    ++end;
  }
  return text.substr(0, end) + "…";
}

void Canvas::line(double x1, double y1, double x2, double y2, const char* style) {
  body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>", x1, y1, x2, y2,
                       style);
}

void Canvas::rect(double x, double y, double width, double height, const char* style, double opacity,
                  const std::string& hint) {
  body_ += fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" class=\"{}\" fill-opacity=\"{:.2f}\">{}"
      "</rect>",
      x, y, std::max(0.0, width), std::max(0.0, height), style, opacity, hint_of(hint));
}

void Canvas::circle(double x, double y, double radius, const char* style, const std::string& hint) {
  body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" class=\"{}\">{}</circle>", x, y, radius, style,
                       hint_of(hint));
}

void Canvas::polyline(std::span<const std::array<double, 2>> points, const char* style) {
  body_ += fmt::format("<polyline class=\"{}\" points=\"", style);
  for (const auto& [x, y] : points) body_ += fmt::format("{:.1f},{:.1f} ", x, y);
  body_ += "\"/>";
}

void Canvas::text(double x, double y, std::string_view text, const char* style, Anchor anchor) {
  body_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\" text-anchor=\"{}\">{}</text>", x, y, style,
                       name_of(anchor), escaped(text));
}

void Canvas::upright_text(double x, double y, std::string_view text, const char* style) {
  body_ += fmt::format(
      "<text x=\"{0:.1f}\" y=\"{1:.1f}\" class=\"{2}\" text-anchor=\"middle\" transform=\"rotate(-90 {0:.1f} "
      "{1:.1f})\">"
      "{3}</text>",
      x, y, style, escaped(text));
}

void Canvas::legend(double x, double y, std::span<const std::string> names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string name = cut(names[i], 28);
    rect(x, y - 9, 10, 10, series_class(i));
    text(x + 14, y, name, "muted");
    x += 30 + 6.6 * static_cast<double>(characters(name));
  }
}

Svg Canvas::finish(const std::string& title, const std::string& description) const {
  return {fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\"><title>{}</title><desc>{}</desc>{}</svg>",
      width_, height_, escaped(title + ". " + description), escaped(title), escaped(description), body_)};
}

Svg empty_chart(const std::string& title) {
  Canvas canvas(480, 80);
  canvas.text(8, 18, title, "heading");
  canvas.text(240, 50, "no data", "muted", Anchor::kMiddle);
  return canvas.finish(title, "No data.");
}

void draw_axes(Canvas& canvas, const Scale& x, const Scale& y, const std::string& x_label, const std::string& y_label) {
  for (const double value : y.logarithmic ? logarithmic_ticks(y.low, y.high) : ticks(y.low, y.high, 5)) {
    canvas.line(x.from, y.at(value), x.to, y.at(value), "grid");
    canvas.text(x.from - 6, y.at(value) + 4, short_number(value), "muted", Anchor::kEnd);
  }
  for (const double value : ticks(x.low, x.high, 6)) {
    canvas.line(x.at(value), y.from, x.at(value), y.from + 4, "axis");
    canvas.text(x.at(value), y.from + 17, short_number(value), "muted", Anchor::kMiddle);
  }
  canvas.line(x.from, y.from, x.to, y.from, "axis");
  canvas.text((x.from + x.to) / 2, y.from + 34, x_label, "muted", Anchor::kMiddle);
  if (!y_label.empty()) canvas.upright_text(12, (y.from + y.to) / 2, y_label, "muted");
}

}  // namespace vlmzoo::app::report
