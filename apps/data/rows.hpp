#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/dataset.hpp"

/// What the readers of the three layouts give to load_dataset().
namespace vlmzoo::app {

struct Row {
  Sample sample;  // without the class
  std::optional<std::string> label;
  std::string where;  // "labels.csv:7"
};

struct Rows {
  std::vector<Row> good;
  std::vector<std::string> faults;  // "labels.csv:7: why", one for each bad row
  bool has_splits = false;
};

Rows read_csv_rows(const std::filesystem::path& file);
Rows read_jsonl_rows(const std::filesystem::path& file);
Rows read_folder_rows(const std::filesystem::path& folder);

/// "train", "val" (also for "validation"), "test", or "" for another word.
std::string parse_split(const std::string& text);

/// Text from a file as it may stand in a message.
std::string shown(const std::string& text);

/// A fault of one row; readers turn it into an entry of Rows::faults.
struct BadRow {
  std::string why;
};

/// Where a row says its picture is. Throws BadRow for no path, one that is not UTF-8, or no file.
std::filesystem::path find_picture(const std::filesystem::path& folder, const std::string& image);

/// Lines by sample id, to find an id that comes twice.
using SeenIds = std::unordered_map<std::string, std::size_t>;

}  // namespace vlmzoo::app
