#include "synth/scene.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "synth/background.hpp"
#include "synth/camera.hpp"
#include "synth/distractors.hpp"
#include "synth/receipt.hpp"

namespace vlmzoo::app::synth {
namespace {

struct Object {
  Thing thing;
  bool receipt = false;
  Quad corners{};  // in sides of the picture
};

/// What is common to the objects of one picture.
struct View {
  Tilt tilt;
  double zoom = 1;
};

/// Side of the map on which it is counted how much of each object is visible.
constexpr int kMap = 128;

Quad times(const Quad& quad, double factor) {
  Quad result;
  for (std::size_t i = 0; i < 4; ++i) result[i] = {quad[i].x * factor, quad[i].y * factor};
  return result;
}

/// The visible part of each object, the lowest first.
std::vector<double> visible_parts(const std::vector<Object>& objects) {
  cv::Mat map = cv::Mat::zeros(kMap, kMap, CV_8UC1);
  for (std::size_t i = 0; i < objects.size(); ++i) {
    fill_quad(map, times(objects[i].corners, kMap), cv::Scalar(static_cast<double>(i + 1)));
  }
  std::vector<int> cells(objects.size() + 1, 0);
  for (int y = 0; y < kMap; ++y) {
    const auto* row = map.ptr<std::uint8_t>(y);
    for (int x = 0; x < kMap; ++x) ++cells[row[x]];
  }
  std::vector<double> result;
  for (std::size_t i = 0; i < objects.size(); ++i) {
    result.push_back(std::min(1.0, cells[i + 1] / (area(objects[i].corners) * kMap * kMap)));
  }
  return result;
}

bool receipts_visible(const std::vector<Object>& objects) {
  const std::vector<double> parts = visible_parts(objects);
  for (std::size_t i = 0; i < objects.size(); ++i) {
    if (objects[i].receipt && parts[i] < kLeastVisible) return false;
  }
  return true;
}

Point middle(const Quad& quad) {
  return {(quad[0].x + quad[1].x + quad[2].x + quad[3].x) / 4, (quad[0].y + quad[1].y + quad[2].y + quad[3].y) / 4};
}

/// Mostly upright or a little turned, sometimes any way up: cosine and sine.
Point random_turn(Random& random) {
  const bool any = random.chance(0.12);
  const double half = any ? random.between(-1.0, 1.0) : random.between(-0.4, 0.4);
  const double sign = any && random.chance(0.5) ? -1 : 1;
  const double scale = sign / (1 + half * half);
  return {(1 - half * half) * scale, 2 * half * scale};
}

/// A rectangle somewhere on the table, a little out of shape, seen through the tilt.
Quad random_pose(Random& random, const Thing& thing, const View& view, double shrink, const Point* near) {
  double width = thing.width * view.zoom * shrink, height = width * thing.texture.rows / thing.texture.cols;
  const double excess = std::max(1.0, height / (0.82 * shrink));
  width /= excess;
  height /= excess;
  const Point turn = random_turn(random);
  double x = random.between(0.06, 0.94), y = random.between(0.06, 0.94);
  if (near != nullptr) {
    x = near->x + random.between(-0.25, 0.25);
    y = near->y + random.between(-0.25, 0.25);
  }
  Quad quad;
  for (std::size_t i = 0; i < 4; ++i) {
    const double side = i == 0 || i == 3 ? -0.5 : 0.5, end = i < 2 ? -0.5 : 0.5;
    const double dx = width * (side + random.between(-0.03, 0.03)), dy = height * (end + random.between(-0.02, 0.02));
    const double px = x + dx * turn.x - dy * turn.y, py = y + dx * turn.y + dy * turn.x;
    const double factor = view.tilt.factor(px, py);
    quad[i] = {0.5 + (px - 0.5) * factor, 0.5 + (py - 0.5) * factor};
  }
  return quad;
}

/// Puts one more object on the pile, at any height of it, so that all receipts stay visible. False when it finds no
/// place; the pile is unchanged then.
bool place(std::vector<Object>& pile, Object object, const View& view, double shrink, Random& random) {
  constexpr int kTries = 16;
  const bool together = !pile.empty() && random.chance(0.35);
  const Point neighbour = together ? middle(random.pick(pile).corners) : Point{};
  const auto where = static_cast<std::ptrdiff_t>(random.below(pile.size() + 1));
  const auto at = pile.insert(pile.begin() + where, std::move(object));
  for (int i = 0; i < kTries; ++i) {
    at->corners = random_pose(random, at->thing, view, shrink, together && i < kTries / 2 ? &neighbour : nullptr);
    if (receipts_visible(pile)) return true;
  }
  pile.erase(at);
  return false;
}

Object make_receipt(Random& random) {
  cv::Mat texture = draw_receipt(random);
  return {{std::move(texture), random.between(0.19, 0.31), 0.004, /*paper=*/true}, /*receipt=*/true};
}

/// The receipts first, smaller when they find no room; then the rest, as far as it does. How many things there are in
/// all hardly depends on how many of them are receipts.
std::vector<Object> make_pile(Random& random, int count, const View& view) {
  std::vector<Object> pile;
  for (double shrink = count > 2 ? 0.88 : 1.0; static_cast<int>(pile.size()) < count;) {
    if (!place(pile, make_receipt(random), view, shrink, random)) shrink *= 0.9;
  }
  const int others = std::max(random.between(0, 6) - count, random.between(0, 1));
  for (int i = 0; i < others; ++i) place(pile, {draw_distractor(random)}, view, 1.0, random);
  return pile;
}

void draw_object(cv::Mat& canvas, const Object& object, const Point& light, Random& random) {
  const double size = canvas.cols;
  const Quad quad = times(object.corners, size);
  cv::Mat texture = reduced(object.thing.texture, quad);
  const double lift = object.thing.height * random.between(0.7, 2.5);
  const double softness = size * (0.004 + 0.5 * lift), strength = random.between(0.25, 0.6);
  Quad shadow = quad;
  for (Point& corner : shadow) corner = {corner.x + light.x * lift * size, corner.y + light.y * lift * size};
  cast_shadow(canvas, shadow, softness, strength);
  Bend bend;
  if (object.thing.paper) {
    texture = texture.clone();
    const bool crumpled = random.chance(0.4);
    crumple(texture, random, crumpled ? random.between(0.06, 0.18) : 0.03);
    bend = random_bend(random, crumpled ? 0.02 : 0.006);
  }
  paste(canvas, texture, quad, bend);
}

}  // namespace

Scene draw_scene(Random& random, int count, int size) {
  View view;
  if (random.chance(0.6)) {
    view.tilt.across = random.between(-0.3, 0.3);
    view.tilt.along = random.between(-0.3, 0.3);
  }
  view.zoom = random.between(0.85, 1.2);
  const std::vector<Object> pile = make_pile(random, count, view);
  Scene scene{draw_background(random, view.tilt, size), {}};
  const double light_x = random.between(-1.2, 1.2);
  const Point light{light_x, random.between(-1.2, 1.2)};
  for (const Object& object : pile) draw_object(scene.pixels, object, light, random);
  photograph(scene.pixels, random);
  const std::vector<double> parts = visible_parts(pile);
  for (std::size_t i = 0; i < pile.size(); ++i) {
    if (pile[i].receipt) scene.receipts.push_back({times(pile[i].corners, size), parts[i]});
  }
  return scene;
}

}  // namespace vlmzoo::app::synth
