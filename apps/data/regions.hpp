#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace vlmzoo::app {

/// A quadrilateral of a picture, in sides of it: (0, 0) is the top left corner, (1, 1) the bottom right one.
struct Region {
  std::array<std::array<double, 2>, 4> corners{};  ///< x, y; parts may lie outside
  double visible = 1;                              ///< the part of it that can be seen

  std::array<double, 2> centre() const;  ///< mean of the corners
};

/// What `vlmzoo synth` tells about where things lie, by the id of the picture (as in labels.csv): a truth that training
/// may use beside the labels. Errors: kNotFound, kCorrupt with file and line.
std::map<std::string, std::vector<Region>> read_regions(const std::filesystem::path& file);

}  // namespace vlmzoo::app
