#include "synth/distractors.hpp"

#include <algorithm>
#include <array>
#include <opencv2/imgproc.hpp>
#include <string>

#include "synth/draw.hpp"
#include "synth/font.hpp"
#include "synth/receipt.hpp"

namespace vlmzoo::app::synth {
namespace {

cv::Scalar opaque(const cv::Scalar& colour) { return {colour[0], colour[1], colour[2], 255}; }

cv::Scalar any_colour(Random& random) {
  const double hue = random.unit(), saturation = random.between(0.2, 1.0), value = random.between(0.25, 1.0);
  return hsv(hue, saturation, value);
}

void fill(cv::Mat& texture, const cv::Rect& box, const cv::Scalar& colour) {
  cv::rectangle(texture, box, opaque(colour), cv::FILLED);
}

void frame(cv::Mat& texture, const cv::Rect& box, const cv::Scalar& colour, int thickness) {
  cv::rectangle(texture, box, opaque(colour), thickness);
}

std::string digits(Random& random, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += static_cast<char>('0' + random.below(10));
  return result;
}

/// Makes everything outside an ellipse (or inside a smaller one) clear.
void keep_ring(cv::Mat& texture, double inner) {
  for (int y = 0; y < texture.rows; ++y) {
    for (int x = 0; x < texture.cols; ++x) {
      const double dx = (2 * x + 1.0) / texture.cols - 1, dy = (2 * y + 1.0) / texture.rows - 1;
      const double r = dx * dx + dy * dy;
      if (r > 1 || r < inner * inner) texture.at<cv::Vec4b>(y, x)[3] = 0;
    }
  }
}

void round_corners(cv::Mat& texture, int radius) {
  for (int y = 0; y < texture.rows; ++y) {
    for (int x = 0; x < texture.cols; ++x) {
      const int dx = std::max({radius - x, x - (texture.cols - 1 - radius), 0});
      const int dy = std::max({radius - y, y - (texture.rows - 1 - radius), 0});
      if (dx * dx + dy * dy > radius * radius) texture.at<cv::Vec4b>(y, x)[3] = 0;
    }
  }
}

/// As large and as white as a receipt, and nothing on it.
Thing slip(Random& random) {
  const int width = 90, height = static_cast<int>(width * random.between(1.1, 2.8));
  Thing thing{make_texture(width, height, paper_colour(random)), random.between(0.18, 0.31), 0.004, true};
  if (random.chance(0.5)) {
    const int y = random.between(height / 4, 3 * height / 4);
    const cv::Scalar shade = scaled(paper_colour(random), random.between(0.82, 0.95));
    if (random.chance(0.5)) fill(thing.texture, cv::Rect(0, y, width, height - y), shade);
    fill(thing.texture, cv::Rect(0, y, width, 1), scaled(shade, 0.75));
  }
  return thing;
}

/// A larger sheet: blank, ruled or squared.
Thing sheet(Random& random) {
  const int width = 160, height = static_cast<int>(width * random.between(0.8, 1.5));
  Thing thing{make_texture(width, height, paper_colour(random)), random.between(0.3, 0.5), 0.004, true};
  const cv::Scalar line = hsv(random.between(0.5, 0.65), 0.25, 0.8);
  const int step = random.between(14, 22), kind = random.between(0, 3);
  if (kind >= 2) {
    for (int y = step; y < height; y += step) fill(thing.texture, cv::Rect(0, y, width, 1), line);
  }
  if (kind == 3) {
    for (int x = step; x < width; x += step) fill(thing.texture, cv::Rect(x, 0, 1, height), line);
  }
  return thing;
}

/// A coloured page of even lines, as written or printed text looks from afar.
Thing note(Random& random) {
  const int width = 160, height = static_cast<int>(width * random.between(0.9, 1.5));
  const double hue = random.unit(), saturation = random.between(0.35, 0.8);
  const cv::Scalar paper = hsv(hue, saturation, random.between(0.7, 1.0));
  Thing thing{make_texture(width, height, paper), random.between(0.2, 0.36), 0.004, true};
  const cv::Scalar ink = scaled(paper, random.between(0.25, 0.6));
  const int pitch = random.between(12, 20);
  for (int y = 16; y + pitch < height - 8; y += pitch) {
    const int end = random.chance(0.2) ? random.between(width / 3, width - 12) : width - 12;
    for (int x = 12; x < end;) {
      const int word = random.between(10, 36);
      fill(thing.texture, cv::Rect(x, y, std::min(word, end - x), 4), ink);
      x += word + 6;
    }
  }
  return thing;
}

Thing card(Random& random) {
  const cv::Scalar colour = any_colour(random);
  Thing thing{make_texture(172, 108, colour), random.between(0.18, 0.28), 0.006};
  const cv::Scalar light = scaled(colour, 1.5), dark = scaled(colour, 0.5);
  const int kind = random.between(0, 2);
  if (kind == 0) {  // a bank card's front
    fill_quad(thing.texture, {{{60, 0}, {172, 0}, {172, 108}, {110, 108}}}, opaque(light));
    fill(thing.texture, cv::Rect(16, 36, 26, 20), hsv(0.12, 0.6, 0.85));
    Font::get(1).write(thing.texture, {16, 66}, digits(random, 12), hsv(0, 0, 0.95));
  } else if (kind == 1) {  // its back
    fill(thing.texture, cv::Rect(0, 14, 172, 22), hsv(0, 0, 0.1));
    fill(thing.texture, cv::Rect(12, 50, 100, 16), hsv(0, 0, 0.93));
  } else {  // a business card
    fill(thing.texture, cv::Rect(14, 16, 34, 34), dark);
    for (int i = 0; i < 3; ++i) fill(thing.texture, cv::Rect(14, 66 + 12 * i, random.between(50, 120), 4), dark);
  }
  round_corners(thing.texture, 9);
  return thing;
}

Thing banknote(Random& random) {
  const cv::Scalar colour = any_colour(random), dark = scaled(colour, 0.55);
  const int width = 190, height = random.between(84, 100);
  Thing thing{make_texture(width, height, colour), random.between(0.26, 0.38), 0.003, true};
  for (int y = 3; y < height; y += 5) fill(thing.texture, cv::Rect(0, y, width, 1), scaled(colour, 0.85));
  frame(thing.texture, cv::Rect(5, 5, width - 10, height - 10), dark, 2);
  cv::ellipse(thing.texture, cv::Point(width / 2, height / 2), cv::Size(24, height / 3), 0, 0, 360, opaque(dark),
              cv::FILLED);
  const std::array values = {"5", "10", "20", "50", "100"};
  Font::get(1).write(thing.texture, {12, 10}, random.pick(values), dark, /*big=*/true);
  return thing;
}

Thing phone(Random& random) {
  const int width = 104, height = random.between(200, 220);
  Thing thing{make_texture(width, height, hsv(0, 0, random.between(0.04, 0.16))), random.between(0.15, 0.22), 0.014};
  const cv::Rect screen(6, random.between(8, 18), width - 12, height - 34);
  const int kind = random.between(0, 2);
  const cv::Scalar back = kind == 2 ? hsv(0, 0, random.between(0.05, 0.2)) : any_colour(random);
  fill(thing.texture, screen, back);
  if (kind == 0) {  // icons
    for (int y = screen.y + 8; y + 16 < screen.y + screen.height; y += 24) {
      for (int x = screen.x + 7; x + 14 < screen.x + screen.width; x += 21) {
        if (random.chance(0.75)) fill(thing.texture, cv::Rect(x, y, 14, 14), any_colour(random));
      }
    }
  } else if (kind == 1) {  // a conversation
    for (int y = screen.y + 8; y + 22 < screen.y + screen.height;) {
      const int length = random.between(34, 66), tall = random.between(12, 22);
      const int x = random.chance(0.5) ? screen.x + 5 : screen.x + screen.width - 5 - length;
      fill(thing.texture, cv::Rect(x, y, length, tall), scaled(back, 0.6));
      y += tall + 8;
    }
  }
  round_corners(thing.texture, 14);
  return thing;
}

Thing envelope(Random& random) {
  const cv::Scalar paper = random.chance(0.5) ? paper_colour(random) : hsv(random.between(0.07, 0.12), 0.4, 0.75);
  const int width = 180, height = random.between(90, 120);
  Thing thing{make_texture(width, height, paper), random.between(0.3, 0.45), 0.006, true};
  const cv::Scalar line = opaque(scaled(paper, 0.75));
  if (random.chance(0.5)) {  // its back, with the flap
    const cv::Point tip(width / 2, height * 6 / 10);
    cv::line(thing.texture, cv::Point(0, 0), tip, line, 2);
    cv::line(thing.texture, cv::Point(width, 0), tip, line, 2);
  } else {  // its front: a stamp and a window
    fill(thing.texture, cv::Rect(width - 34, 8, 24, 28), any_colour(random));
    fill(thing.texture, cv::Rect(20, height / 2, 80, 34), scaled(paper, 0.9));
  }
  return thing;
}

/// A box with a ribbon, or a book.
Thing box(Random& random) {
  const cv::Scalar colour = any_colour(random);
  const int width = 120, height = static_cast<int>(width * random.between(0.6, 1.5));
  Thing thing{make_texture(width, height, colour), random.between(0.16, 0.36), random.between(0.01, 0.03)};
  if (random.chance(0.4)) {
    fill(thing.texture, cv::Rect(0, height / 2 - 7, width, 14), scaled(colour, 1.4));
    if (random.chance(0.5)) fill(thing.texture, cv::Rect(width / 2 - 7, 0, 14, height), scaled(colour, 1.4));
  } else if (random.chance(0.5)) {
    fill(thing.texture, cv::Rect(0, 0, 12, height), scaled(colour, 0.6));
    frame(thing.texture, cv::Rect(24, 12, width - 36, height / 4), scaled(colour, 0.6), 3);
  } else {
    fill(thing.texture, cv::Rect(0, 0, width / 3, height), scaled(colour, 0.75));
  }
  return thing;
}

Thing pen(Random& random) {
  const cv::Scalar colour = any_colour(random);
  const int width = random.between(8, 18), height = 240;
  Thing thing{make_texture(width, height, colour), width * random.between(0.0012, 0.0026), 0.008};
  fill(thing.texture, cv::Rect(0, 0, width / 3, height), scaled(colour, 1.4));
  fill(thing.texture, cv::Rect(0, 0, width, random.between(6, 60)), scaled(colour, 0.5));
  fill(thing.texture, cv::Rect(0, height - 16, width, 16), hsv(0.1, 0.3, 0.6));
  return thing;
}

Thing coin(Random& random) {
  const double hue = random.between(0.06, 0.14), saturation = random.between(0.0, 0.6);
  const cv::Scalar colour = hsv(hue, saturation, random.between(0.5, 0.9));
  Thing thing{make_texture(64, 64, colour), random.between(0.05, 0.1), 0.006};
  cv::circle(thing.texture, cv::Point(32, 32), 24, opaque(scaled(colour, 0.7)), 3);
  Font::get(1).write(thing.texture, {20, 8}, digits(random, 1), scaled(colour, 0.5), /*big=*/true);
  keep_ring(thing.texture, 0);
  return thing;
}

/// The mark of a cup, a rubber band, or a plate.
Thing ring(Random& random) {
  const cv::Scalar colour = any_colour(random);
  Thing thing{make_texture(120, 120, colour), random.between(0.06, 0.22), 0.002};
  keep_ring(thing.texture, random.chance(0.25) ? 0.0 : random.between(0.7, 0.9));
  return thing;
}

}  // namespace

Thing draw_distractor(Random& random) {
  // As often as it is named.
  constexpr std::array kKinds = {slip, slip, slip, slip,     slip,     sheet, sheet, sheet,    note, card, card, card,
                                 box,  box,  box,  banknote, banknote, phone, phone, envelope, pen,  pen,  coin, ring};
  return random.pick(kKinds)(random);
}

}  // namespace vlmzoo::app::synth
