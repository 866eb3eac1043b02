#include "data/dataset.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <system_error>

#include "data/rows.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

/// More classes than that are columns mixed up.
constexpr std::int64_t kMostClasses = 100'000;

Rows read_rows(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw Error(ErrorCode::kNotFound, fmt::format("data does not exist: {}", path.string()));
  }
  if (fs::is_directory(status)) {
    return fs::exists(path / "labels.csv", error) ? read_csv_rows(path / "labels.csv") : read_folder_rows(path);
  }
  if (path.extension() == ".csv") return read_csv_rows(path);
  if (path.extension() == ".jsonl") return read_jsonl_rows(path);
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: expected a .csv file, a .jsonl file (a JSON list becomes one with jq -c '.[]'), or a folder",
                  path.string()));
}

/// Error: kCorrupt that names bad rows; or a warning with their number.
void report_faults(const Rows& rows, const fs::path& path, bool skip) {
  if (rows.faults.empty()) return;
  constexpr std::size_t kNamed = 20, kLongest = 3000;
  std::string list;
  std::size_t named = 0;
  while (named < std::min(kNamed, rows.faults.size()) && list.size() < kLongest) list += "\n  " + rows.faults[named++];
  if (named < rows.faults.size()) list += fmt::format("\n  and {} more", rows.faults.size() - named);
  const std::string count = fmt::format("{}: {} of {} rows are bad", path.string(), grouped(std::ssize(rows.faults)),
                                        grouped(std::ssize(rows.faults) + std::ssize(rows.good)));
  if (!skip) throw Error(ErrorCode::kCorrupt, fmt::format("{} (--skip-bad leaves them out):{}", count, list));
  warn_once(fmt::format("{} and left out:{}", count, list));  // a verb may load two splits of one file
}

std::optional<std::int64_t> parse_index(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size() && value >= 0;
  return whole ? std::optional(value) : std::nullopt;
}

/// The labels in use, sorted: by value when all are numbers, which then stand for themselves.
std::vector<std::string> names_of_labels(const Rows& rows, const DataRequest& request) {
  std::set<std::string> labels;
  std::int64_t largest = -1;
  bool numbers = true;
  for (const Row& row : rows.good) {
    if (!row.label || !labels.insert(*row.label).second) continue;
    const std::optional<std::int64_t> index = parse_index(*row.label);
    numbers = numbers && index && *index < kMostClasses;
    if (numbers) largest = std::max(largest, *index);
  }
  if (!numbers || labels.empty()) return {labels.begin(), labels.end()};
  std::vector<std::string> result;
  const std::int64_t count = request.num_classes > 0 ? request.num_classes : largest + 1;
  for (std::int64_t i = 0; i < count; ++i) result.push_back(std::to_string(i));
  return result;
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t kNamed = 12;
  std::vector<std::string> first;
  for (std::size_t i = 0; i < std::min(kNamed, names.size()); ++i) first.push_back(shown(names[i]));
  return fmt::format("{}{}", fmt::join(first, ", "), names.size() > kNamed ? ", …" : "");
}

std::vector<std::string> class_names_of(const Rows& rows, const DataRequest& request) {
  if (!request.class_names.empty()) return request.class_names;
  std::vector<std::string> names = names_of_labels(rows, request);
  if (request.labels && request.num_classes > 0 && std::ssize(names) != request.num_classes) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} has {} classes ({}), model.num_classes is {}; set it to {}, or name the classes in "
                            "model.id2label",
                            request.path.string(), names.size(), list_of(names), request.num_classes, names.size()));
  }
  return names;
}

/// Class indices by label text.
class Labels {
 public:
  explicit Labels(const std::vector<std::string>& names) : names_(names) {
    for (std::size_t i = 0; i < names.size(); ++i) by_name_.try_emplace(names[i], static_cast<std::int64_t>(i));
  }

  /// Error: kMismatch.
  std::int64_t operator()(const Row& row) const {
    if (const auto found = by_name_.find(*row.label); found != by_name_.end()) return found->second;
    const std::optional<std::int64_t> index = parse_index(*row.label);
    if (index && *index < std::ssize(names_)) return *index;
    throw Error(ErrorCode::kMismatch, fmt::format("{}: label '{}' is none of the {} classes: {}", row.where,
                                                  shown(*row.label), names_.size(), list_of(names_)));
  }

 private:
  const std::vector<std::string>& names_;
  std::map<std::string, std::int64_t> by_name_;
};

std::string describe_splits(const Rows& rows) {
  std::map<std::string, std::int64_t> counts;
  for (const Row& row : rows.good) ++counts[row.sample.split.empty() ? "no split" : row.sample.split];
  std::vector<std::string> parts;
  for (const auto& [split, count] : counts) parts.push_back(fmt::format("{}: {}", split, grouped(count)));
  return parts.empty() ? "it has no good rows at all" : fmt::format("it has {}", fmt::join(parts, ", "));
}

}  // namespace

void check_classes(const Dataset& dataset, const DataRequest& request) {
  const std::vector<std::int64_t> counts = dataset.class_counts();
  const auto used = std::count_if(counts.begin(), counts.end(), [](std::int64_t n) { return n > 0; });
  if (used >= 2) return;
  const std::string& only = dataset.class_names[static_cast<std::size_t>(dataset.samples.front().label)];
  throw Error(ErrorCode::kMismatch,
              fmt::format("{}: all {} samples of split {} are of class '{}'; two classes are needed",
                          request.path.string(), dataset.samples.size(), request.split, shown(only)));
}

std::vector<std::int64_t> Dataset::class_counts() const {
  std::vector<std::int64_t> result(class_names.size(), 0);
  for (const Sample& sample : samples) {
    if (sample.label >= 0) ++result[static_cast<std::size_t>(sample.label)];
  }
  return result;
}

Dataset load_dataset(const DataRequest& request) {
  Rows rows = read_rows(request.path);
  if (request.labels) {
    std::erase_if(rows.good, [&](const Row& row) {
      if (!row.label) rows.faults.push_back(row.where + ": no label");
      return !row.label;
    });
  }
  report_faults(rows, request.path, request.skip_bad);
  Dataset dataset;
  dataset.skipped = std::ssize(rows.faults);
  dataset.class_names = class_names_of(rows, request);
  const Labels labels(dataset.class_names);
  const bool all = request.split == "all" || !rows.has_splits;
  for (Row& row : rows.good) {
    if (!all && row.sample.split != request.split) continue;
    if (row.label) row.sample.label = labels(row);
    dataset.samples.push_back(std::move(row.sample));
  }
  if (dataset.samples.empty()) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{}: split {} is empty; {}", request.path.string(), request.split, describe_splits(rows)));
  }
  if (request.labels) check_classes(dataset, request);
  if (request.limit > 0 && request.limit < std::ssize(dataset.samples)) {
    dataset.samples.resize(static_cast<std::size_t>(request.limit));
  }
  return dataset;
}

std::string parse_split(const std::string& text) {
  if (text == "train" || text == "val" || text == "test") return text;
  return text == "validation" ? "val" : "";
}

std::string shown(const std::string& text) {
  constexpr std::size_t kLongest = 80;
  std::size_t end = std::min(text.size(), kLongest);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  std::string result = harmless(text.substr(0, end));
  if (!is_utf8(result)) {
    std::replace_if(
        result.begin(), result.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  }
  return end < text.size() ? result + "…" : result;
}

fs::path find_picture(const fs::path& folder, const std::string& image) {
  if (image.empty()) throw BadRow{"image is empty"};
  if (!is_utf8(image) || image.find('\0') != image.npos) throw BadRow{"image is no path in UTF-8"};
  fs::path path = folder / image;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw BadRow{fmt::format("picture does not exist: {}", shown(image))};
  if (fs::is_directory(status)) throw BadRow{fmt::format("picture is a folder: {}", shown(image))};
  return path;
}

void DataOptions::add_to(Options& options) {
  options.add()("data", po::value(&data)->value_name("FOLDER|FILE"),
                "labels.csv or its folder, a .jsonl file, or a folder with one per class")(
      "split", po::value(&split)->value_name("NAME"), "train, val, test (default) or all")(
      "limit", po::value(&limit)->value_name("N"), "take the first N samples of it only")(
      "skip-bad", po::bool_switch(&skip_bad), "leave bad rows out instead of stopping");
}

DataRequest DataOptions::request() const {
  if (data.empty()) throw Error(ErrorCode::kUsage, "--data is missing");
  if (split != "all" && split != parse_split(split)) {
    throw Error(ErrorCode::kUsage, fmt::format("--split is '{}'; expected train, val, test or all", split));
  }
  require_range("limit", limit, 0, std::int64_t{1} << 40);
  DataRequest result;
  result.path = data;
  result.split = split;
  result.limit = limit;
  result.skip_bad = skip_bad;
  return result;
}

}  // namespace vlmzoo::app
