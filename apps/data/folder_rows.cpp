#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "data/rows.hpp"
#include "pictures.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

/// The folders in `folder`, sorted by name; hidden ones don't count.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> result;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory() && !entry.path().filename().string().starts_with('.')) result.push_back(entry.path());
  }
  std::sort(result.begin(), result.end());
  return result;
}

/// The pictures of the class folders, each class by turns, so that a beginning of them holds every class.
void read_classes(const fs::path& root, const std::vector<fs::path>& classes, const std::string& split, Rows& rows) {
  std::vector<std::vector<fs::path>> pictures;
  std::size_t most = 0;
  for (const fs::path& folder : classes) {
    const std::string argument = folder.string();
    pictures.push_back(collect_pictures({&argument, 1}));
    most = std::max(most, pictures.back().size());
  }
  for (std::size_t i = 0; i < most; ++i) {
    for (std::size_t c = 0; c < classes.size(); ++c) {
      if (i >= pictures[c].size()) continue;
      const fs::path& file = pictures[c][i];
      Row row;
      row.sample.id = file.lexically_relative(root).generic_string();
      row.sample.image = file;
      row.sample.split = split;
      row.label = classes[c].filename().string();
      row.where = file.string();
      if (is_utf8(row.sample.id)) {
        rows.good.push_back(std::move(row));
      } else {
        rows.faults.push_back(fmt::format("{}: the name is not UTF-8", shown(row.where)));
      }
    }
  }
}

}  // namespace

Rows read_folder_rows(const fs::path& folder) {
  const std::vector<fs::path> inside = folders_in(folder);
  if (inside.empty()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no labels.csv and no folders in it; expected one of them, or a folder for each class",
                            folder.string()));
  }
  Rows rows;
  rows.has_splits = std::all_of(inside.begin(), inside.end(),
                                [](const fs::path& f) { return !parse_split(f.filename().string()).empty(); });
  if (!rows.has_splits) {
    read_classes(folder, inside, "", rows);
    return rows;
  }
  for (const fs::path& part : inside) {
    const std::vector<fs::path> classes = folders_in(part);
    if (classes.empty()) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: no folders in it; expected one for each class", part.string()));
    }
    read_classes(folder, classes, parse_split(part.filename().string()), rows);
  }
  return rows;
}

}  // namespace vlmzoo::app
