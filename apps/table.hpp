#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vlmzoo::app {

/// A table for people: columns as wide as their widest cell, two spaces between. Control characters in cells print as
/// '?'.
class Table {
 public:
  /// A header that begins with '>' makes its column right-aligned.
  explicit Table(const std::vector<std::string>& headers);

  /// As many cells as there are headers.
  void add(std::vector<std::string> cells);
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the first holds the headers
  std::vector<bool> right_;
};

/// "12,345,678"
std::string grouped(std::int64_t number);

/// `text` with control characters replaced by '?': names come from outside and must not steer a terminal.
std::string harmless(std::string_view text);

}  // namespace vlmzoo::app
