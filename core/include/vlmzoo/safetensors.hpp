#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/export.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

VLMZOO_API std::size_t size_of(DType dtype);                            ///< bytes per element
VLMZOO_API std::string_view name_of(DType dtype);                       ///< as in the file: "F32", "BF16", …
VLMZOO_API std::string to_string(std::span<const std::int64_t> shape);  ///< "[2, 3]"

/// One tensor of a file. `begin` and `end` are bytes from the start of the file.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;

  std::uint64_t bytes() const { return end - begin; }
};

/// A safetensors file open for reading (format: 8 bytes little-endian header length, JSON header, data). The header is
/// validated whole before anything is used: length at most 100 MB and inside the file, known dtypes, shape × size equal
/// to the range, ranges that fill the data without overlap or hole, no key twice. Error: kCorrupt naming file, tensor,
/// expected, got; kUnsupported for a dtype that isn't in DType.
/// Const methods may run concurrently.
class VLMZOO_API SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorEntry>& entries() const { return entries_; }  ///< ordered by `begin`
  const TensorEntry* find(std::string_view name) const;                 ///< null when absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Reads `out.size()` bytes from `offset` bytes into the tensor with pread. Error: kCorrupt when the file got
  /// shorter, kIo.
  void read(const TensorEntry& entry, std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

/// Writes a safetensors file, streamed: the names, dtypes and shapes first, then each tensor's bytes in that order, in
/// any number of pieces. Nothing appears under `path` before commit(). Error: kIo, kInternal when the bytes don't add
/// up.
class VLMZOO_API SafetensorsWriter {
 public:
  /// `begin` and `end` of the entries are ignored and assigned here.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                    const std::map<std::string, std::string>& metadata = {});
  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  AtomicFile file_;
  std::uint64_t expected_ = 0, written_ = 0;
};

}  // namespace vlmzoo
