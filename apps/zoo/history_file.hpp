#pragma once

#include <filesystem>
#include <string>

#include "zoo/history.hpp"

namespace vlmzoo::app {

/// The history of a zoo file, opened to be written, created where there is none. The lock on it is the lock on changing
/// the zoo file: one holder at a time among all processes; it ends with the object or the process. Errors: kIo,
/// kInterrupted while waiting.
class HistoryFile {
 public:
  explicit HistoryFile(const std::filesystem::path& zoo_file);
  ~HistoryFile();
  HistoryFile(const HistoryFile&) = delete;
  HistoryFile& operator=(const HistoryFile&) = delete;

  /// parse_history() of what it holds now.
  History read(const std::string& active) const;

  /// Puts the record on the disk behind those of `history`, which is what it holds; an incomplete last line is removed,
  /// with a warning. Error: kIo; the records are as they were then.
  void append(const History& history, const Record& record);

 private:
  void open();
  bool is_named() const;
  bool is_empty() const;
  void close();

  std::filesystem::path path_;
  int descriptor_ = -1;
  bool created_ = false;  // by this object; removed again when nothing was recorded
};

}  // namespace vlmzoo::app
