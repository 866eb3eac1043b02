#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "data/csv.hpp"
#include "data/rows.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

/// Which column holds what; -1 for one that isn't there.
struct Columns {
  std::ptrdiff_t image = -1, label = -1, count = -1, answer = -1, split = -1;
  std::size_t total = 0;
};

Columns find_columns(const std::vector<std::string>& header, const std::string& where) {
  const auto find = [&](const char* name, bool required) -> std::ptrdiff_t {
    const auto found = std::find(header.begin(), header.end(), name);
    if (found == header.end() && required) {
      const std::string similar = nearest(name, header);
      throw Error(ErrorCode::kCorrupt,
                  fmt::format("{}: the header has no column '{}'{}; expected image,label[,count,answer,split]", where,
                              name, similar.empty() ? "" : fmt::format(" (but '{}')", shown(similar))));
    }
    if (found != header.end() && std::find(found + 1, header.end(), name) != header.end()) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{}: the header has column '{}' twice", where, name));
    }
    return found == header.end() ? -1 : found - header.begin();
  };
  return {find("image", true),   find("label", true),  find("count", false),
          find("answer", false), find("split", false), header.size()};
}

std::string cell(const CsvRow& row, std::ptrdiff_t column) {
  return column < 0 ? std::string() : row.cells[static_cast<std::size_t>(column)];
}

std::int64_t parse_count(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw BadRow{fmt::format("count is '{}', expected a number from 0", shown(text))};
  }
  return value;
}

Row read_row(const CsvRow& csv, const Columns& columns, const fs::path& folder, SeenIds& seen) {
  if (!csv.fault.empty()) throw BadRow{csv.fault};
  if (csv.cells.size() != columns.total) {
    throw BadRow{fmt::format("{} cells, the header has {}", csv.cells.size(), columns.total)};
  }
  Row row;
  row.sample.id = cell(csv, columns.image);
  row.sample.image = find_picture(folder, row.sample.id);
  row.sample.answer = cell(csv, columns.answer);
  row.label = cell(csv, columns.label);
  if (row.label->empty()) throw BadRow{"the label is empty"};
  if (!is_utf8(*row.label) || !is_utf8(row.sample.answer)) throw BadRow{"not UTF-8"};
  if (const std::string count = cell(csv, columns.count); !count.empty()) row.sample.count = parse_count(count);
  if (columns.split >= 0) {
    row.sample.split = parse_split(cell(csv, columns.split));
    if (row.sample.split.empty()) {
      throw BadRow{fmt::format("split is '{}', expected train, val or test", shown(cell(csv, columns.split)))};
    }
  }
  const auto [first, fresh] = seen.try_emplace(row.sample.id, csv.line);
  if (!fresh) throw BadRow{fmt::format("the picture {} is in line {} already", shown(row.sample.id), first->second)};
  return row;
}

}  // namespace

Rows read_csv_rows(const fs::path& file) {
  const std::string where = file.string();
  const std::vector<CsvRow> table = parse_csv(read_file(file), where);
  if (table.empty()) throw Error(ErrorCode::kCorrupt, where + ": the file is empty, expected a header and rows");
  const Columns columns = find_columns(table.front().cells, fmt::format("{}:{}", where, table.front().line));
  Rows result;
  result.has_splits = columns.split >= 0;
  SeenIds seen;
  for (std::size_t i = 1; i < table.size(); ++i) {
    const std::string at = fmt::format("{}:{}", where, table[i].line);
    try {
      result.good.push_back(read_row(table[i], columns, file.parent_path(), seen));
      result.good.back().where = at;
    } catch (const BadRow& bad) {
      result.faults.push_back(fmt::format("{}: {}", at, bad.why));
    }
  }
  return result;
}

}  // namespace vlmzoo::app
