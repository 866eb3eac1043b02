#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "report/page.hpp"

/// What the charts are drawn with.
namespace vlmzoo::app::report {

/// Places values of an axis on the drawing. `from` and `to` are coordinates, `low` < `high` values.
struct Scale {
  double low = 0, high = 1, from = 0, to = 1;
  bool logarithmic = false;

  double at(double value) const;
};

/// About `count` round numbers in [low, high].
std::vector<double> ticks(double low, double high, int count);
/// Powers of ten, with 2 and 5 times them where those alone are few.
std::vector<double> logarithmic_ticks(double low, double high);
/// At most four digits: "0.25", "1200", "3e-05".
std::string short_number(double value);

/// The style class of a series by its index: "s1", …
const char* series_class(std::size_t index);

/// `text` cut to `length` characters, with an ellipsis.
std::string cut(const std::string& text, std::size_t length);

enum class Anchor { kStart, kMiddle, kEnd };

class Canvas {
 public:
  Canvas(double width, double height) : width_(width), height_(height) {}

  double width() const { return width_; }
  double height() const { return height_; }

  void line(double x1, double y1, double x2, double y2, const char* style);
  /// `hint` appears where a pointer rests on it.
  void rect(double x, double y, double width, double height, const char* style, double opacity = 1,
            const std::string& hint = "");
  void circle(double x, double y, double radius, const char* style, const std::string& hint = "");
  void polyline(std::span<const std::array<double, 2>> points, const char* style);
  void text(double x, double y, std::string_view text, const char* style = "", Anchor anchor = Anchor::kStart);
  /// Upwards, centred at (x, y).
  void upright_text(double x, double y, std::string_view text, const char* style = "");

  /// Names of series with their colours, in a row from (x, y) on.
  void legend(double x, double y, std::span<const std::string> names);

  Svg finish(const std::string& title, const std::string& description) const;

 private:
  double width_, height_;
  std::string body_;
};

/// A chart with nothing in it.
Svg empty_chart(const std::string& title);

/// Grid, ticks and names of two axes around the plot that the scales span (y upwards).
void draw_axes(Canvas& canvas, const Scale& x, const Scale& y, const std::string& x_label, const std::string& y_label);

}  // namespace vlmzoo::app::report
