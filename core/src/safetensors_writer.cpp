#include <fmt/format.h>

#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fault(const std::string& what) {
  throw Error(ErrorCode::kInternal, "writing a safetensors file: " + what);
}

std::uint64_t bytes_of(const TensorEntry& entry) {
  std::uint64_t bytes = size_of(entry.dtype);
  for (const std::int64_t dimension : entry.shape) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dimension), &bytes)) {
      fault(fmt::format("tensor '{}' has the impossible shape {}", shortened(entry.name), to_string(entry.shape)));
    }
  }
  return bytes;
}

/// The header's JSON, and how many bytes of data it announces.
std::pair<std::string, std::uint64_t> make_header(const std::vector<TensorEntry>& entries,
                                                  const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  for (const auto& [key, value] : metadata) {
    if (!is_utf8(key) || !is_utf8(value)) fault(fmt::format("metadata '{}' is not UTF-8", shortened(key)));
    header["__metadata__"][key] = value;
  }
  std::uint64_t end = 0;
  for (const TensorEntry& entry : entries) {
    const std::uint64_t begin = end;
    if (__builtin_add_overflow(begin, bytes_of(entry), &end)) fault("more than 2^64 bytes");
    if (!is_utf8(entry.name) || entry.name == "__metadata__") {
      fault(fmt::format("'{}' can't be the name of a tensor", shortened(entry.name)));
    }
    const bool fresh =
        header
            .emplace(entry.name,
                     Json{{"dtype", name_of(entry.dtype)}, {"shape", entry.shape}, {"data_offsets", {begin, end}}})
            .second;
    if (!fresh) fault(fmt::format("two tensors are named '{}'", shortened(entry.name)));
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins aligned
  return {std::move(text), end};
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<TensorEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  const auto [header, data_bytes] = make_header(entries, metadata);
  expected_ = data_bytes;
  std::string prefix(8, '\0');
  for (std::size_t i = 0; i < prefix.size(); ++i) prefix[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  file_.write(prefix + header);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  if (bytes.size() > expected_ - written_) {
    fault(fmt::format("{} bytes of data, expected {}", written_ + bytes.size(), expected_));
  }
  try {
    file_.write(bytes);
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{} ({} of {} bytes of tensors were written)", error.what(), written_, expected_));
  }
  written_ += bytes.size();
}

void SafetensorsWriter::commit() {
  if (written_ != expected_) fault(fmt::format("{} bytes of data, expected {}", written_, expected_));
  file_.commit();
}

}  // namespace vlmzoo
