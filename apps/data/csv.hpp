#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace vlmzoo::app {

struct CsvRow {
  std::size_t line = 0;  ///< of its first character; the file's first is 1
  std::vector<std::string> cells;
  std::string fault;  ///< why the row can't be trusted; empty for a good one
};

/// The rows of a CSV file (RFC 4180: cells may be quoted and then hold commas, line ends and doubled quotes). Also
/// taken: line ends without a carriage return, none at the end, a byte order mark. Empty lines are left out. Error:
/// kCorrupt for a quotation that never ends; `where` begins the message.
std::vector<CsvRow> parse_csv(std::string_view text, const std::string& where);

/// `text` as a cell, quoted where it has to be.
std::string csv_cell(std::string_view text);

}  // namespace vlmzoo::app
