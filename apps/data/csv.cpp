#include "data/csv.hpp"

#include <fmt/format.h>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

class Reader {
 public:
  Reader(std::string_view text, const std::string& where) : text_(text), where_(where) {
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;
  }

  std::vector<CsvRow> read() {
    std::vector<CsvRow> rows;
    while (at_ < text_.size()) {
      CsvRow row = read_row();
      const bool empty = row.fault.empty() && row.cells.size() == 1 && row.cells.front().empty() && !quoted_;
      if (!empty) rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  /// The length of the line end here: 0 where there is none.
  std::size_t line_end() const {
    if (text_[at_] == '\n') return 1;
    return text_.substr(at_).starts_with("\r\n") ? 2 : 0;
  }

  CsvRow read_row() {
    CsvRow row;
    row.line = line_;
    quoted_ = false;
    while (true) {
      row.cells.push_back(read_cell(row));
      if (at_ == text_.size()) return row;
      if (const std::size_t end = line_end()) {
        at_ += end;
        ++line_;
        return row;
      }
      ++at_;  // the comma
      if (at_ == text_.size()) {
        row.cells.emplace_back();
        return row;
      }
    }
  }

  /// Up to the comma, line end or end of the text behind it.
  std::string read_cell(CsvRow& row) {
    std::string cell;
    const bool was_quoted = at_ < text_.size() && text_[at_] == '"';
    if (was_quoted) cell = read_quoted();
    while (at_ < text_.size() && text_[at_] != ',' && line_end() == 0) {
      const char c = text_[at_++];
      if (was_quoted) row.fault = "text behind a quoted cell";
      if (c == '"') row.fault = "a quotation mark inside an unquoted cell";
      if (c == '\r') row.fault = "a carriage return without a line feed";
      cell += c;
    }
    return cell;
  }

  std::string read_quoted() {
    quoted_ = true;
    const std::size_t first_line = line_;
    std::string cell;
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        const bool doubled = at_ + 1 < text_.size() && text_[at_ + 1] == '"';
        if (!doubled) {
          ++at_;
          return cell;
        }
        ++at_;
      }
      if (c == '\n') ++line_;
      cell += c;
    }
    throw Error(ErrorCode::kCorrupt, fmt::format("{}:{}: a quotation begins here and never ends", where_, first_line));
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0, line_ = 1;
  bool quoted_ = false;  // the row has a quoted cell
};

}  // namespace

std::vector<CsvRow> parse_csv(std::string_view text, const std::string& where) { return Reader(text, where).read(); }

std::string csv_cell(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == text.npos) return std::string(text);
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"') result += '"';
    result += c;
  }
  return result + '"';
}

}  // namespace vlmzoo::app
