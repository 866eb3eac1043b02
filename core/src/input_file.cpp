#include "input_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail_to_open(const fs::path& path, int error) {
  std::error_code ignored;
  const bool absent = error == ENOENT || error == ENOTDIR;
  if (absent && fs::is_symlink(path, ignored)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: is a symbolic link to '{}', which does not exist; if this is a download, it is "
                            "incomplete",
                            path.string(), fs::read_symlink(path, ignored).string()));
  }
  if (absent) throw Error(ErrorCode::kNotFound, fmt::format("{}: file does not exist", path.string()));
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot open: {}", path.string(), reason(error)));
}

[[noreturn]] void fail_to_read(const fs::path& path, int error) {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot read: {}", path.string(), reason(error)));
}

}  // namespace

std::string reason(int error) { return std::system_category().message(error); }

InputFile::InputFile(fs::path path, Accept accept) : path_(std::move(path)) {
  // O_NONBLOCK lets a pipe in a model folder open at once, to be refused below; regular files don't know it.
  const int flags = O_RDONLY | O_CLOEXEC | (accept == Accept::kRegularFile ? O_NONBLOCK : 0);
  do {
    descriptor_ = ::open(path_.c_str(), flags);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail_to_open(path_, errno);

  struct stat status {};
  std::string wrong;
  if (::fstat(descriptor_, &status) != 0) {
    wrong = "cannot read: " + reason(errno);
  } else if (S_ISDIR(status.st_mode)) {
    wrong = "is a folder, expected a file";
  } else if (accept == Accept::kRegularFile && !S_ISREG(status.st_mode)) {
    wrong = "is a device or a pipe, expected a regular file";
  }
  if (!wrong.empty()) {
    ::close(descriptor_);
    throw Error(ErrorCode::kIo, fmt::format("{}: {}", path_.string(), wrong));
  }
  if (S_ISREG(status.st_mode)) size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::size_t InputFile::read(std::span<std::byte> out) {
  for (;;) {
    const ssize_t count = ::read(descriptor_, out.data(), out.size());
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno != EINTR) fail_to_read(path_, errno);
  }
}

int InputFile::release() { return std::exchange(descriptor_, -1); }

std::size_t read_fully(int descriptor, const fs::path& path, std::uint64_t offset, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t count = ::pread(descriptor, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (count == 0) break;
    if (count > 0) {
      done += static_cast<std::size_t>(count);
    } else if (errno != EINTR) {
      fail_to_read(path, errno);
    }
  }
  return done;
}

}  // namespace vlmzoo
