#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace vlmzoo {

/// "No space left on device" for an errno.
std::string reason(int error);

/// A file open for reading. Error: kNotFound when it doesn't exist, kIo when it can't be opened or is a folder.
class InputFile {
 public:
  enum class Accept { kAnything, kRegularFile };  ///< kAnything: pipes too, and opening one waits for its writer

  InputFile(std::filesystem::path path, Accept accept);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::uint64_t size() const { return size_; }  ///< as the file system says; 0 for a pipe
  /// Up to out.size() bytes from where the last call ended; 0 only at the end. Error: kIo.
  std::size_t read(std::span<std::byte> out);
  int descriptor() const { return descriptor_; }
  int release();  ///< the descriptor is the caller's from now on

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// pread until `out` is full or the file ends; the number of bytes read. Error: kIo naming `path`.
std::size_t read_fully(int descriptor, const std::filesystem::path& path, std::uint64_t offset,
                       std::span<std::byte> out);

}  // namespace vlmzoo
