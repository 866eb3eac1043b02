#include "zoo/history_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::string& what, int error) {
  throw Error(ErrorCode::kIo,
              fmt::format("{}: {}: {}; the zoo file is unchanged", path.string(), what, std::strerror(error)));
}

/// Best effort on file systems that have no fsync for folders.
void sync_folder(const fs::path& file) {
  const int folder = ::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  ::fsync(folder);
  ::close(folder);
}

/// All of `text` at `offset`; 0 or an errno.
int write_fully(int descriptor, std::string_view text, std::uint64_t offset) {
  while (!text.empty()) {
    const ssize_t count = ::pwrite(descriptor, text.data(), text.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
  return ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
}

}  // namespace

HistoryFile::HistoryFile(const fs::path& zoo_file) : path_(history_path(zoo_file)) {
  try {
    // Someone may move the file away while this process waits: the lock has to be on what others will open.
    do {
      close();
      open();
      while (::flock(descriptor_, LOCK_EX) != 0) {
        if (errno != EINTR) fail(path_, "cannot lock", errno);
        check_interrupt();
      }
    } while (!is_named());
  } catch (...) {
    close();
    throw;
  }
}

HistoryFile::~HistoryFile() {
  if (created_ && is_empty() && is_named()) ::unlink(path_.c_str());
  close();
}

void HistoryFile::open() {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  created_ = descriptor_ >= 0;
  if (!created_ && errno == EEXIST) descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(path_, "cannot open", errno);
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail(path_, "cannot read", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(ErrorCode::kIo, fmt::format("{}: is a device or a pipe, expected a regular file", path_.string()));
  }
}

bool HistoryFile::is_named() const {
  struct stat held {
  }, named{};
  return ::fstat(descriptor_, &held) == 0 && ::stat(path_.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

bool HistoryFile::is_empty() const {
  struct stat status {};
  return ::fstat(descriptor_, &status) == 0 && status.st_size == 0;
}

void HistoryFile::close() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

History HistoryFile::read(const std::string& active) const { return parse_history(read_file(path_), path_, active); }

void HistoryFile::append(const History& history, const Record& record) {
  if (!history.torn.empty()) {
    warn(fmt::format("{}:{}: an incomplete last line, as a crash leaves it, is removed", path_.string(),
                     history.records.size() + 1));
  }
  const std::string line = (history.ends_open ? "\n" : "") + to_line(record);
  // The old tail goes first: what is shorter than it would leave its end behind.
  const auto end = static_cast<off_t>(history.whole_bytes);
  int error = ::ftruncate(descriptor_, end) == 0 ? 0 : errno;
  if (error == 0) error = write_fully(descriptor_, line, history.whole_bytes);
  if (error != 0) {
    static_cast<void>(::ftruncate(descriptor_, end));
    fail(path_, "cannot write", error);
  }
  if (created_) sync_folder(path_);
}

}  // namespace vlmzoo::app
