#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "report/canvas.hpp"
#include "report/charts.hpp"

namespace vlmzoo::app::report {
namespace {

constexpr std::size_t kMostClasses = 30;

std::int64_t mistakes_of(const ConfusionMatrix& confusion, std::int64_t label) {
  std::int64_t result = 0;
  for (std::int64_t i = 0; i < confusion.classes; ++i) {
    if (i != label) result += confusion.at(label, i) + confusion.at(i, label);
  }
  return result;
}

/// Indices of the classes to show, in their order.
std::vector<std::int64_t> shown_classes(const ConfusionMatrix& confusion) {
  std::vector<std::int64_t> classes(static_cast<std::size_t>(confusion.classes));
  std::iota(classes.begin(), classes.end(), 0);
  if (classes.size() <= kMostClasses) return classes;
  std::vector<std::int64_t> mistakes;
  for (const std::int64_t label : classes) mistakes.push_back(mistakes_of(confusion, label));
  std::stable_sort(classes.begin(), classes.end(), [&](std::int64_t a, std::int64_t b) {
    return mistakes[static_cast<std::size_t>(a)] > mistakes[static_cast<std::size_t>(b)];
  });
  classes.resize(kMostClasses);
  std::sort(classes.begin(), classes.end());
  return classes;
}

}  // namespace

Svg confusion_chart(const std::string& title, const ConfusionMatrix& confusion, std::span<const std::string> names) {
  if (confusion.classes == 0) return empty_chart(title);
  const std::vector<std::int64_t> classes = shown_classes(confusion);
  const auto count = static_cast<double>(classes.size());
  const double cell = std::clamp(340 / count, 12.0, 90.0), left = 128, top = 34;
  const double side = cell * count, bottom = top + side;
  Canvas canvas(left + side + 12, bottom + (cell >= 60 ? 46 : 110));
  canvas.text(8, 18, title, "heading");
  std::string description = "Rows are labels, columns predictions. ";
  const auto name = [&](std::int64_t i) { return names[static_cast<std::size_t>(i)]; };
  for (std::size_t row = 0; row < classes.size(); ++row) {
    const double y = top + cell * static_cast<double>(row);
    std::int64_t total = 0;
    for (std::int64_t i = 0; i < confusion.classes; ++i) total += confusion.at(classes[row], i);
    canvas.text(left - 6, y + cell / 2 + 4, cut(name(classes[row]), 15), "", Anchor::kEnd);
    for (std::size_t column = 0; column < classes.size(); ++column) {
      const double x = left + cell * static_cast<double>(column);
      const std::int64_t items = confusion.at(classes[row], classes[column]);
      const double share = total == 0 ? 0 : static_cast<double>(items) / static_cast<double>(total);
      const std::string hint =
          fmt::format("{} taken for {}: {} of {}", name(classes[row]), name(classes[column]), items, total);
      canvas.rect(x + 0.5, y + 0.5, cell - 1, cell - 1, row == column ? "s1" : "s2", 0.06 + 0.5 * share, hint);
      if (cell >= 24) canvas.text(x + cell / 2, y + cell / 2 + 4, fmt::format("{}", items), "", Anchor::kMiddle);
      if (items > 0) description += hint + ". ";
    }
  }
  for (std::size_t column = 0; column < classes.size(); ++column) {
    const double x = left + cell * (static_cast<double>(column) + 0.5);
    if (cell >= 60) {
      canvas.text(x, bottom + 16, cut(name(classes[column]), 12), "", Anchor::kMiddle);
    } else {
      canvas.upright_text(x + 4, bottom + 46, cut(name(classes[column]), 12));
    }
  }
  canvas.text(left + side / 2, bottom + (cell >= 60 ? 36 : 100), "prediction", "muted", Anchor::kMiddle);
  canvas.upright_text(14, top + side / 2, "label", "muted");
  return canvas.finish(title, description);
}

}  // namespace vlmzoo::app::report
