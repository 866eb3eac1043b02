#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// Whole file as bytes. Error: kNotFound when it doesn't exist, kIo when unreadable or a folder, kCorrupt above `limit`
/// bytes.
VLMZOO_API std::string read_file(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 28);

/// A file that appears under its name complete or not at all: written beside as `.<name>.<pid>.tmp`, fsynced, renamed,
/// and the folder fsynced. Errors are kIo (kNotFound for a folder that doesn't exist) and name the path; without
/// commit() the temporary file is removed.
class VLMZOO_API AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// What was written is on the disk, still under the temporary name: what a full disk or a quota says, it says here.
  void flush();
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

/// AtomicFile in one call.
VLMZOO_API void write_file(const std::filesystem::path& path, std::string_view content);

/// SHA-256 as 64 hex digits, of bytes or of a whole file (streamed).
VLMZOO_API std::string sha256(std::span<const std::byte> bytes);
VLMZOO_API std::string sha256_of_file(const std::filesystem::path& path);

/// True for well-formed UTF-8 (no overlong forms, no surrogates).
VLMZOO_API bool is_utf8(std::string_view text);

}  // namespace vlmzoo
