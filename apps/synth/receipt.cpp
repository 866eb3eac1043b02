#include "synth/receipt.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <opencv2/imgproc.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "synth/draw.hpp"
#include "synth/font.hpp"

namespace vlmzoo::app::synth {
namespace {

using Words = std::string_view;

constexpr std::array<Words, 20> kShops = {"MARKET", "BAKERY", "CAFE", "SHOP",   "DELI",  "BOOKS", "GROCER",
                                          "PHARMA", "DINER",  "FOOD", "TOOLS",  "PIZZA", "SUSHI", "KIOSK",
                                          "FUEL",   "TOYS",   "BAR",  "GARDEN", "SHOES", "HOTEL"};
constexpr std::array<Words, 10> kStreets = {"HIGH ST", "MAIN ST", "OAK AVE", "PARK RD", "DOCK 3",
                                            "MILL LN", "WEST SQ", "HILL RD", "ELM ST",  "BAY 12"};
constexpr std::array<Words, 32> kItems = {"MILK",   "BREAD", "EGGS",  "TEA",  "COFFEE", "APPLE", "RICE",  "PASTA",
                                          "SOAP",   "BEER",  "WINE",  "FISH", "SALAD",  "SOUP",  "JUICE", "WATER",
                                          "BUTTER", "CAKE",  "PEN",   "BOOK", "SOCKS",  "LAMP",  "TAPE",  "NAILS",
                                          "PLANT",  "CANDY", "ONION", "PEAR", "HAM",    "OIL",   "SALT",  "NUTS"};
constexpr std::array<Words, 5> kEnds = {"THANK YOU", "THANKS!", "GOOD DAY", "SEE YOU", "WELCOME"};
constexpr int kMargin = 10;

/// What one receipt is printed with.
struct Print {
  int columns = 0, pitch = 0;  // characters in a line, texels from line to line
  const Font* font = nullptr;
  const Font* bold = nullptr;
  cv::Scalar ink;
  bool comma = false;
};

class Printer {
 public:
  Printer(const Print& print, const cv::Scalar& paper, int height)
      : print_(print), texture_(make_texture(print.columns * Font::kWidth + 2 * kMargin, height, paper)) {}

  void centred(std::string_view text, bool big = false) {
    const int width = static_cast<int>(text.size()) * Font::kWidth * (big ? 2 : 1);
    const Font& font = big ? *print_.bold : *print_.font;
    font.write(texture_, {(texture_.cols - width) / 2, y_}, text, print_.ink, big);
    y_ += big ? Font::kHeight * 2 : print_.pitch;
  }

  void row(std::string_view left, std::string_view right, bool bold = false) {
    const Font& font = bold ? *print_.bold : *print_.font;
    font.write(texture_, {kMargin, y_}, left, print_.ink);
    const int width = static_cast<int>(right.size()) * Font::kWidth;
    font.write(texture_, {texture_.cols - kMargin - width, y_}, right, print_.ink);
    y_ += print_.pitch;
  }

  void rule(char c) { centred(std::string(static_cast<std::size_t>(print_.columns), c)); }
  void gap(int height) { y_ += height; }

  void bar_code(Random& random) {
    const int height = random.between(30, 48), end = texture_.cols - kMargin - 6;
    for (int x = kMargin + 6; x < end;) {
      const int bar = random.between(2, 6), space = random.between(2, 5);
      cv::rectangle(texture_, cv::Rect(x, y_, std::min(bar, end - x), height), opaque(), cv::FILLED);
      x += bar + space;
    }
    y_ += height + 8;
  }

  void square_code(Random& random) {
    constexpr int kCells = 13, kCell = 5;
    const int left = (texture_.cols - kCells * kCell) / 2;
    for (int i = 0; i < kCells * kCells; ++i) {
      const int x = i % kCells, y = i / kCells;
      const bool finder = (x < 4 || x > 8) && (y < 4 || (y > 8 && x < 4));
      const bool dark = finder ? !((x == 1 || x == 2 || x == 10 || x == 11) && (y == 1 || y == 2 || y == 10 || y == 11))
                               : random.chance(0.5);
      if (dark) cv::rectangle(texture_, cv::Rect(left + x * kCell, y_ + y * kCell, kCell, kCell), opaque(), cv::FILLED);
    }
    y_ += kCells * kCell + 8;
  }

  void logo(Random& random) {
    const cv::Point middle(texture_.cols / 2, y_ + 20);
    const int shape = random.between(0, 2);
    if (shape == 0) {
      cv::circle(texture_, middle, 19, opaque(), cv::FILLED);
      cv::circle(texture_, middle, random.between(4, 12), cv::Scalar(235, 235, 235, 255), cv::FILLED);
    } else if (shape == 1) {
      cv::rectangle(texture_, cv::Rect(middle.x - 34, y_ + 4, 68, 32), opaque(), cv::FILLED);
      cv::rectangle(texture_, cv::Rect(middle.x - 24, y_ + 14, 48, 12), cv::Scalar(235, 235, 235, 255), cv::FILLED);
    } else {
      cv::rectangle(texture_, cv::Rect(middle.x - 30, y_ + 2, 60, 36), opaque(), 6);
    }
    y_ += 46;
  }

  int y() const { return y_; }
  cv::Mat& texture() { return texture_; }

 private:
  cv::Scalar opaque() const { return {print_.ink[0], print_.ink[1], print_.ink[2], 255}; }

  const Print& print_;
  cv::Mat texture_;
  int y_ = 12;
};

Print random_print(Random& random) {
  Print print;
  print.columns = random.between(11, 13);
  print.pitch = random.between(27, 32);
  const int face = random.between(0, Font::kCount / 2 - 1) * 2;
  const bool strong = random.chance(0.85);
  print.font = &Font::get(strong ? face + 1 : face);
  print.bold = &Font::get(face + 1);
  const double hue = random.chance(0.75) ? 0.0 : random.between(0.6, 0.8);  // black, or blue to violet
  const double value = random.between(0.03, 0.22);
  print.ink = hsv(hue, hue > 0 ? 0.75 : 0.1, hue > 0 ? value + 0.2 : value);
  print.comma = random.chance(0.3);
  return print;
}

std::string amount(std::uint64_t cents, const Print& print) {
  return fmt::format("{}{}{:02}", cents / 100, print.comma ? ',' : '.', cents % 100);
}

void print_head(Printer& printer, Random& random) {
  if (random.chance(0.35)) printer.logo(random);
  printer.centred(random.pick(kShops), /*big=*/true);
  if (random.chance(0.7)) {
    const auto number = random.below(90) + 1;
    printer.centred(fmt::format("{} {}", number, random.pick(kStreets)));
  }
  const int day = random.between(1, 28), month = random.between(1, 12), hour = random.between(8, 21);
  const int minute = random.between(0, 59);
  if (random.chance(0.8)) printer.row(fmt::format("{:02}.{:02}", day, month), fmt::format("{:02}:{:02}", hour, minute));
}

/// Items, prices and their sum, which is the total.
void print_items(Printer& printer, Random& random, const Print& print) {
  const std::array rules = {'-', '=', '*'};
  const char line = random.pick(rules);
  printer.rule(line);
  std::uint64_t total = 0;
  const int items = random.between(2, 5);
  for (int i = 0; i < items; ++i) {
    const Words item = random.pick(kItems);
    const std::uint64_t price = (random.below(random.chance(0.2) ? 400 : 99) + 1) * 5;
    total += price;
    printer.row(item, amount(price, print));
  }
  printer.rule(line);
  printer.gap(4);
  printer.row("TOTAL", amount(total, print), /*bold=*/true);
  printer.gap(4);
  if (random.chance(0.5)) {
    printer.row("CARD", amount(total, print));
  } else if (random.chance(0.6)) {
    const std::uint64_t given = (total / 1000 + 1) * 1000;
    printer.row("CASH", amount(given, print));
    printer.row("BACK", amount(given - total, print));
  }
}

void print_foot(Printer& printer, Random& random) {
  printer.gap(6);
  if (random.chance(0.5)) printer.centred(random.pick(kEnds));
  const double code = random.unit();
  if (code < 0.65) {
    printer.bar_code(random);
  } else if (code < 0.8) {
    printer.square_code(random);
  }
}

/// A row of teeth at the lower or upper end.
void tear(cv::Mat& texture, Random& random, bool top) {
  const int tooth = random.between(8, 20), depth = random.between(4, 10);
  for (int x = 0; x < texture.cols; ++x) {
    const int phase = x % tooth * 2;
    const int cut = depth * (phase < tooth ? phase : 2 * tooth - phase) / tooth;
    for (int y = 0; y < cut; ++y) texture.at<cv::Vec4b>(top ? y : texture.rows - 1 - y, x)[3] = 0;
  }
}

}  // namespace

cv::Scalar paper_colour(Random& random) {
  const bool tinted = random.chance(0.2);
  const double hue = tinted ? random.unit() : random.between(0.05, 0.17);
  const double saturation = tinted ? random.between(0.06, 0.2) : random.between(0.0, 0.07);
  return hsv(hue, saturation, random.between(0.84, 1.0));
}

cv::Mat draw_receipt(Random& random) {
  const Print print = random_print(random);
  constexpr int kLongest = 720;
  Printer printer(print, paper_colour(random), kLongest);
  print_head(printer, random);
  print_items(printer, random, print);
  print_foot(printer, random);
  const int height = std::min(kLongest, printer.y() + random.between(6, 40));
  cv::Mat texture = printer.texture().rowRange(0, height).clone();
  if (random.chance(0.4)) tear(texture, random, /*top=*/false);
  if (random.chance(0.2)) tear(texture, random, /*top=*/true);
  return texture;
}

}  // namespace vlmzoo::app::synth
