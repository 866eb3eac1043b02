#include "vlmzoo/safetensors.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "input_file.hpp"
#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t size;
};

constexpr std::array<DTypeRow, 10> kDTypes = {{{DType::kF64, "F64", 8},
                                               {DType::kF32, "F32", 4},
                                               {DType::kF16, "F16", 2},
                                               {DType::kBF16, "BF16", 2},
                                               {DType::kI64, "I64", 8},
                                               {DType::kI32, "I32", 4},
                                               {DType::kI16, "I16", 2},
                                               {DType::kI8, "I8", 1},
                                               {DType::kU8, "U8", 1},
                                               {DType::kBool, "BOOL", 1}}};

constexpr std::uint64_t kLongestHeader = 100'000'000;  // the reference library's limit
constexpr std::uint64_t kPrefix = 8;
constexpr std::size_t kMostDimensions = 64;

const DTypeRow& row_of(DType dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (row.dtype == dtype) return row;
  }
  throw Error(ErrorCode::kInternal, "not a dtype");
}

[[noreturn]] void corrupt(const fs::path& path, const std::string& what) {
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", path.string(), what));
}

/// Turns the header of one file into entries, with ranges relative to the data section.
class HeaderReader {
 public:
  explicit HeaderReader(const fs::path& path) : path_(path) {}

  TensorEntry tensor(const std::string& name, const Json& value) const {
    if (!value.is_object()) fail(name, "expected an object with dtype, shape and data_offsets");
    TensorEntry entry{.name = name, .dtype = dtype(name, value), .shape = shape(name, value)};
    std::tie(entry.begin, entry.end) = range(name, value);

    std::uint64_t bytes = size_of(entry.dtype);
    for (const std::int64_t dimension : entry.shape) {
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(dimension), &bytes)) {
        fail(name, fmt::format("shape {} is too large", to_string(entry.shape)));
      }
    }
    if (entry.bytes() != bytes) {
      fail(name, fmt::format("{} {} takes {} bytes, but data_offsets [{}, {}] hold {}", name_of(entry.dtype),
                             to_string(entry.shape), bytes, entry.begin, entry.end, entry.bytes()));
    }
    return entry;
  }

  std::map<std::string, std::string> metadata(const Json& value) const {
    std::map<std::string, std::string> result;
    if (!value.is_object()) corrupt(path_, "__metadata__ is not an object of texts");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) corrupt(path_, fmt::format("__metadata__ key '{}' is not a text", shortened(key)));
      result.emplace(key, text.get<std::string>());
    }
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& name, const std::string& what) const {
    corrupt(path_, fmt::format("tensor '{}': {}", shortened(name), what));
  }

  DType dtype(const std::string& name, const Json& value) const {
    const auto found = value.find("dtype");
    if (found == value.end() || !found->is_string()) fail(name, "dtype is missing or not a text");
    const auto& text = found->get_ref<const std::string&>();
    for (const DTypeRow& row : kDTypes) {
      if (row.name == text) return row.dtype;
    }
    std::string known;
    for (const DTypeRow& row : kDTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor '{}': dtype {} is not supported; supported: {}",
                                                     path_.string(), shortened(name), shortened(text, 20), known));
  }

  static std::optional<std::int64_t> count(const Json& value) {
    if (!value.is_number_unsigned() || !std::in_range<std::int64_t>(value.get<std::uint64_t>())) return std::nullopt;
    return value.get<std::int64_t>();
  }

  std::vector<std::int64_t> shape(const std::string& name, const Json& value) const {
    const auto found = value.find("shape");
    if (found == value.end() || !found->is_array()) fail(name, "shape is missing or not a list");
    if (found->size() > kMostDimensions) {
      fail(name, fmt::format("shape has {} dimensions, expected at most {}", found->size(), kMostDimensions));
    }
    std::vector<std::int64_t> result;
    for (const Json& dimension : *found) {
      const auto number = count(dimension);
      if (!number) fail(name, "shape has a dimension that is not an integer from 0 to 2^63 - 1");
      result.push_back(*number);
    }
    return result;
  }

  std::pair<std::uint64_t, std::uint64_t> range(const std::string& name, const Json& value) const {
    const auto found = value.find("data_offsets");
    const bool pair = found != value.end() && found->is_array() && found->size() == 2;
    const auto begin = pair ? count((*found)[0]) : std::nullopt;
    const auto end = pair ? count((*found)[1]) : std::nullopt;
    if (!begin || !end || *begin > *end) fail(name, "data_offsets is not [begin, end] with 0 <= begin <= end");
    return {static_cast<std::uint64_t>(*begin), static_cast<std::uint64_t>(*end)};
  }

  const fs::path& path_;
};

/// The JSON text of the header, after the checks that need no JSON.
std::string header_text(const InputFile& file, const fs::path& path) {
  if (file.size() == 0) corrupt(path, "the file is empty; download it again");
  if (file.size() < kPrefix)
    corrupt(path, fmt::format("truncated: the file has {} bytes, too few for a safetensors header; download it again",
                              file.size()));
  std::array<unsigned char, kPrefix> prefix{};
  read_fully(file.descriptor(), path, 0, std::as_writable_bytes(std::span(prefix)));
  if (std::string_view(reinterpret_cast<const char*>(prefix.data()), prefix.size()) == "version ") {
    corrupt(path, "is a Git LFS pointer, not the weights; fetch them with 'git lfs pull'");
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kPrefix; ++i) length |= std::uint64_t{prefix[i]} << (8 * i);
  if (length < 2 || length > kLongestHeader) {
    corrupt(path, fmt::format("not a safetensors file: header length {}, expected 2 to {}", length, kLongestHeader));
  }
  if (length > file.size() - kPrefix) {
    corrupt(path, fmt::format("truncated: the header needs bytes up to {}, the file has {}; download it again",
                              length + kPrefix, file.size()));
  }
  std::string text(static_cast<std::size_t>(length), '\0');
  if (read_fully(file.descriptor(), path, kPrefix, std::as_writable_bytes(std::span(text))) != length) {
    corrupt(path, "the file got shorter while its header was read");
  }
  if (text[0] != '{') corrupt(path, "not a safetensors file: the header does not begin with '{'");
  return text;
}

/// The tensors have to lie one behind the other and fill the data section, as the reference library demands.
void check_layout(const std::vector<TensorEntry>& entries, std::uint64_t data_begin, std::uint64_t file_size,
                  const fs::path& path) {
  std::uint64_t reached = 0;
  const TensorEntry* before = nullptr;
  for (const TensorEntry& entry : entries) {
    const std::string where = fmt::format("tensor '{}'", shortened(entry.name));
    if (entry.begin < reached) {
      corrupt(path, fmt::format("{} begins at byte {} of the data, inside tensor '{}', which ends at {}", where,
                                entry.begin, shortened(before->name), reached));
    }
    if (entry.begin > reached) {
      corrupt(path, fmt::format("{} begins at byte {} of the data, expected {}: a hole before it", where, entry.begin,
                                reached));
    }
    if (entry.end > file_size - data_begin) {
      corrupt(path, fmt::format("truncated: {} needs bytes up to {}, the file has {}; download it again", where,
                                data_begin + entry.end, file_size));
    }
    reached = entry.end;
    before = &entry;
  }
  if (data_begin + reached != file_size) {
    corrupt(path, fmt::format("{} bytes follow the last tensor, expected none", file_size - data_begin - reached));
  }
}

}  // namespace

std::size_t size_of(DType dtype) { return row_of(dtype).size; }
std::string_view name_of(DType dtype) { return row_of(dtype).name; }
std::string to_string(std::span<const std::int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  InputFile file(path, InputFile::Accept::kRegularFile);
  const std::string text = header_text(file, path);
  const std::uint64_t data_begin = kPrefix + text.size();
  const Json header = parse_json(text, path.string() + ": header");
  if (!header.is_object()) corrupt(path, "the header is not a JSON object");

  const HeaderReader reader(path);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = reader.metadata(value);
    } else {
      entries_.push_back(reader.tensor(name, value));
    }
  }
  std::ranges::sort(entries_, {},
                    [](const TensorEntry& entry) { return std::tie(entry.begin, entry.end, entry.name); });
  check_layout(entries_, data_begin, file.size(), path);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    entries_[i].begin += data_begin;
    entries_[i].end += data_begin;
    index_.emplace(entries_[i].name, i);
  }
  // More read-ahead; that a file system doesn't know the hint is no harm.
  static_cast<void>(::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_SEQUENTIAL));
  descriptor_ = file.release();
}

SafetensorsFile::~SafetensorsFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      entries_(std::move(other.entries_)),
      index_(std::move(other.index_)),
      metadata_(std::move(other.metadata_)) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(entries_, other.entries_);
  std::swap(index_, other.index_);
  std::swap(metadata_, other.metadata_);
  return *this;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void SafetensorsFile::read(const TensorEntry& entry, std::uint64_t offset, std::span<std::byte> out) const {
  if (offset > entry.bytes() || out.size() > entry.bytes() - offset) {
    throw Error(ErrorCode::kInternal,
                fmt::format("{}: tensor '{}' has {} bytes, asked for {} from byte {}", path_.string(),
                            shortened(entry.name), entry.bytes(), out.size(), offset));
  }
  const std::size_t count = read_fully(descriptor_, path_, entry.begin + offset, out);
  if (count != out.size()) {
    corrupt(path_, fmt::format("truncated while in use: tensor '{}' needs bytes up to {}, the file now ends at {}",
                               shortened(entry.name), entry.end, entry.begin + offset + count));
  }
}

}  // namespace vlmzoo
