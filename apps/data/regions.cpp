#include "data/regions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo::app {
namespace {

[[noreturn]] void fail(const std::string& where, const char* why) {
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", where, why));
}

Region parse_region(const Json& json, double size, const std::string& where) {
  if (!json.is_object() || !json.contains("polygon")) fail(where, "a region has to be an object with polygon");
  const Json& polygon = json["polygon"];
  if (!polygon.is_array() || polygon.size() != 4) fail(where, "polygon has to hold four corners");
  Region region;
  for (std::size_t i = 0; i < 4; ++i) {
    const Json& corner = polygon[i];
    if (!corner.is_array() || corner.size() != 2 || !corner[0].is_number() || !corner[1].is_number()) {
      fail(where, "a corner has to be two numbers, x and y");
    }
    region.corners[i] = {corner[0].get<double>() / size, corner[1].get<double>() / size};
  }
  region.visible = JsonView(json, where).number_or("visible", 1);
  return region;
}

}  // namespace

std::array<double, 2> Region::centre() const {
  std::array<double, 2> sum{};
  for (const auto& corner : corners) sum = {sum[0] + corner[0] / 4, sum[1] + corner[1] / 4};
  return sum;
}

std::map<std::string, std::vector<Region>> read_regions(const std::filesystem::path& file) {
  const std::string content = read_file(file, std::size_t{1} << 30);
  std::map<std::string, std::vector<Region>> result;
  std::size_t line = 0;
  for (std::string_view rest = content; !rest.empty();) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(text.size() + 1, rest.size()));
    const std::string where = fmt::format("{}:{}", file.string(), ++line);
    if (text.find_first_not_of(" \t\r") == text.npos) continue;
    const Json row = parse_json(text, where);
    if (!row.is_object() || !row.contains("receipts") || !row["receipts"].is_array()) {
      fail(where, "expected an object with image, size and a list of receipts");
    }
    const JsonView view(row, where);
    const auto size = static_cast<double>(view.integer("size", 1, 65535));
    std::vector<Region>& regions = result[view.text("image")];
    for (const Json& region : row["receipts"]) regions.push_back(parse_region(region, size, where));
  }
  return result;
}

}  // namespace vlmzoo::app
