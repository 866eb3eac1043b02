#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "input_file.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  throw Error(ErrorCode::kIo, fmt::format("{}: {}", path.string(), what));
}

/// The file to replace when `path` is a symbolic link, also when the link leads nowhere yet; the link stays.
fs::path behind_links(const fs::path& path) {
  fs::path target = path;
  std::error_code error;
  for (int hops = 0; fs::is_symlink(target, error); ++hops) {
    if (hops == 40) fail(path, "cannot write: too many symbolic links");
    target = target.parent_path() / fs::read_symlink(target, error);
    if (error) fail(path, "cannot write: " + error.message());
  }
  return target;
}

void check_folder(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) {
    throw Error(ErrorCode::kNotFound, fmt::format("output folder does not exist: {}; create it first (for {})",
                                                  folder.string(), path.filename().string()));
  }
  if (error) fail(path, "cannot write: " + error.message());
  if (!fs::is_directory(status)) fail(path, fmt::format("cannot write: {} is not a folder", folder.string()));
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// Best effort on file systems that have no fsync for folders.
void sync_folder(const fs::path& path) {
  const int folder = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;  // a folder may be writable and not readable
  const int error = ::fsync(folder) == 0 ? 0 : errno;
  ::close(folder);
  if (error == EIO || error == ENOSPC || error == EDQUOT) fail(path, "written, but may not survive: " + reason(error));
}

void discard(int& descriptor, const fs::path& temporary) {
  if (descriptor < 0) return;
  ::close(std::exchange(descriptor, -1));
  ::unlink(temporary.c_str());
}

void check_open(int descriptor, const fs::path& path) {
  if (descriptor >= 0) return;
  throw Error(ErrorCode::kInternal, fmt::format("{}: written to after it was committed or failed", path.string()));
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  struct stat old {};
  const bool exists = ::stat(path_.c_str(), &old) == 0;
  if (exists && S_ISDIR(old.st_mode)) fail(path_, "cannot write: is a folder, expected the name of a file");
  if (exists && !S_ISREG(old.st_mode)) fail(path_, "cannot write: is a device or a pipe, expected a regular file");
  if (!path_.has_filename()) fail(path_, "cannot write: not the name of a file");
  path_ = behind_links(path_);
  check_folder(path_, folder_of(path_));

  // The number covers what a killed process with the same id left behind, and two writers in one process.
  const std::string name = path_.filename().string().substr(0, 200);
  for (int attempt = 0; descriptor_ < 0; ++attempt) {
    const std::string number = attempt == 0 ? "" : fmt::format(".{}", attempt);
    temporary_ = path_.parent_path() / fmt::format(".{}.{}{}.tmp", name, ::getpid(), number);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    const bool retry = descriptor_ < 0 && (errno == EINTR || errno == EEXIST) && attempt < 100;
    if (descriptor_ < 0 && !retry) fail(path_, "cannot create: " + reason(errno));
  }
  // A file that was private stays private, and whose it was (root may write for others), as far as the file system
  // knows modes and owners.
  if (exists) {
    static_cast<void>(::fchown(descriptor_, old.st_uid, old.st_gid) == 0);
    static_cast<void>(::fchmod(descriptor_, old.st_mode & 07777));
  }
}

AtomicFile::~AtomicFile() { discard(descriptor_, temporary_); }

void AtomicFile::write(std::span<const std::byte> bytes) {
  check_open(descriptor_, path_);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (count >= 0) {
      done += static_cast<std::size_t>(count);
    } else if (errno != EINTR) {
      const int error = errno;
      discard(descriptor_, temporary_);
      fail(path_, fmt::format("cannot write {} more bytes: {}", bytes.size() - done, reason(error)));
    }
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::flush() {
  check_open(descriptor_, path_);
  if (::fsync(descriptor_) == 0 || errno == EINVAL) return;
  const int error = errno;
  discard(descriptor_, temporary_);
  fail(path_, "cannot write: " + reason(error));
}

void AtomicFile::commit() {
  flush();
  int error = 0;
  // close() reports what a network file system kept for last; the descriptor is gone either way.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR && error == 0) error = errno;
  if (error == 0 && ::rename(temporary_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) {
    ::unlink(temporary_.c_str());
    fail(path_, "cannot write: " + reason(error));
  }
  sync_folder(path_);
}

}  // namespace vlmzoo
