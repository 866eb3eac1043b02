#include "cache.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "vlmzoo/build_identity.hpp"
#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

/// The last character is the format's version.
constexpr std::array<char, 8> kMagic = {'v', 'l', 'm', 'z', 'r', 'e', 'c', '1'};

/// What precedes a payload. Integers in the machine's order: a cache doesn't travel.
struct RecordHeader {
  std::array<char, 8> magic = kMagic;
  std::uint64_t length = 0;
  RecordKey key{};
  std::uint32_t payload_crc = 0;
  std::uint32_t header_crc = 0;  ///< of everything above
};
static_assert(sizeof(RecordHeader) == 56, "no padding");

std::uint32_t crc_of(const void* bytes, std::size_t count) {
  boost::crc_32_type crc;
  crc.process_bytes(bytes, count);
  return crc.checksum();
}

std::uint32_t crc_of(const RecordHeader& header) { return crc_of(&header, offsetof(RecordHeader, header_crc)); }

bool read_at(int descriptor, void* out, std::size_t count, std::uint64_t offset) {
  auto* bytes = static_cast<char*>(out);
  while (count > 0) {
    const ssize_t got = ::pread(descriptor, bytes, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    offset += static_cast<std::uint64_t>(got);
    count -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_at(int descriptor, std::string_view bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t got = ::pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return true;
}

std::uint64_t size_of_file(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

class FileLock {
 public:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {
    while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~FileLock() { ::flock(descriptor_, LOCK_UN); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

/// What overrides FBGEMM's choice by processor.
std::string forced_kernels() {
  const char* kernels = std::getenv("FBGEMM_ENABLE_INSTRUCTIONS");
  return kernels == nullptr ? "" : std::string(" kernels ") + kernels;
}

/// Size and time of the file behind a path, links followed.
std::string stamp(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return "absent";
  return fmt::format("{} bytes {}.{:09}", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

/// Every small file of a checkpoint's folder is read by someone: config, preprocessor, tokenizer (merges.txt too),
/// generation, templates (chat_template.jinja too).
std::string small_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string kind = entry.path().extension().string();
    const bool read = kind == ".json" || kind == ".jinja" || kind == ".txt";
    if (read && entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::string result;
  for (const fs::path& file : files) {
    result += fmt::format("{} {}\n", file.filename().string(), sha256_of_file(file));
  }
  return result;
}

std::string weight_files(const fs::path& folder) {
  const Checkpoint checkpoint(folder);
  std::string result;
  for (const SafetensorsFile& file : checkpoint.files()) {
    result += fmt::format("{} {}\n", file.path().filename().string(), stamp(file.path()));
    for (const TensorEntry& entry : file.entries()) {
      result += fmt::format("{} {} {} {}\n", entry.name, name_of(entry.dtype), to_string(entry.shape), entry.begin);
    }
  }
  return result;
}

}  // namespace

fs::path cache_folder() {
  // Relative paths in XDG variables are to be ignored, says their specification.
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && fs::path(xdg).is_absolute()) return fs::path(xdg) / "vlmzoo";
  const char* home = std::getenv("HOME");
  if (home != nullptr && fs::path(home).is_absolute()) return fs::path(home) / ".cache" / "vlmzoo";
  return {};
}

std::string model_fingerprint(const Session& session) {
  const ModelConfig& model = session.config().model;
  const PluginInfo& plugin = session.plugin();
  const fs::path folder = resolve_pretrained_path(model.pretrained_path);
  const auto optional = [](const auto& value) { return value ? fmt::format("{}", *value) : std::string("default"); };
  const std::string device = resolve_device(model.device).str();
  // A plugin under development keeps its version while its numbers change, so its file counts too.
  const std::string text = fmt::format(
      "program {} {}\nplugin {} {} {}\ntype {}\nprecision {} on {} {}\npipeline {} tiles {} prompt {}\n{}{}",
      VLMZOO_VERSION, VLMZOO_BUILD_IDENTITY, plugin.name, plugin.version, stamp(plugin.file),
      plugin.model_types.front(), to_json(session.precision()).dump(), device, describe_cpu() + forced_kernels(),
      model.image_pipeline, optional(model.max_tiles), optional(model.system_prompt), small_files(folder),
      model.pretrained ? weight_files(folder) : fmt::format("random weights, seed {}", model.seed));
  return sha256(std::as_bytes(std::span(text)));
}

std::string picture_hash(const fs::path& picture) { return sha256_of_file(picture); }

RecordKey record_key(std::span<const std::string> parts) {
  std::string text;
  for (const std::string& part : parts) text += fmt::format("{}:{},", part.size(), part);
  const std::string digits = sha256(std::as_bytes(std::span(text)));
  RecordKey key{};
  for (std::size_t i = 0; i < key.size(); ++i) {
    unsigned value = 0;
    std::from_chars(digits.data() + 2 * i, digits.data() + 2 * i + 2, value, 16);
    key[i] = static_cast<std::byte>(value);
  }
  return key;
}

RecordStore::RecordStore(const fs::path& file) : file_(file) {
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    throw Error(ErrorCode::kIo, fmt::format("cannot open {}: {}", file.string(), std::strerror(errno)));
  }
  const std::lock_guard lock(mutex_);
  scan();
}

RecordStore::~RecordStore() { ::close(descriptor_); }

/// Takes in what others appended since; stops at the first header that isn't one.
void RecordStore::scan() {
  const std::uint64_t size = size_of_file(descriptor_);
  RecordHeader header;
  while (end_ + sizeof(header) <= size && read_at(descriptor_, &header, sizeof(header), end_)) {
    if (header.magic != kMagic || header.header_crc != crc_of(header)) return;
    const std::uint64_t offset = end_ + sizeof(header);
    if (header.length > size - offset) return;
    places_[header.key] = {offset, header.length, header.payload_crc};
    end_ = offset + header.length;
  }
}

std::optional<std::string> RecordStore::get(const RecordKey& key) const {
  Place place;
  {
    const std::lock_guard lock(mutex_);
    const auto found = places_.find(key);
    if (found == places_.end()) return std::nullopt;
    place = found->second;
  }
  std::string payload(place.length, '\0');
  if (!read_at(descriptor_, payload.data(), payload.size(), place.offset)) return std::nullopt;
  if (crc_of(payload.data(), payload.size()) != place.crc) return std::nullopt;
  return payload;
}

void RecordStore::put(const RecordKey& key, std::string_view payload) {
  const std::lock_guard lock(mutex_);
  if (full_) return;
  const FileLock file_lock(descriptor_);
  scan();
  RecordHeader header;
  header.length = payload.size();
  header.key = key;
  header.payload_crc = crc_of(payload.data(), payload.size());
  header.header_crc = crc_of(header);
  std::string record(reinterpret_cast<const char*>(&header), sizeof(header));
  record += payload;
  // Whatever lies behind the last good record is the rest of a crash: nobody else is writing now.
  const bool written = ::ftruncate(descriptor_, static_cast<off_t>(end_)) == 0 && write_at(descriptor_, record, end_);
  if (!written) {
    full_ = true;
    warn(fmt::format("cannot write to the cache {} ({}); going on without it", file_.string(), std::strerror(errno)));
    [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, static_cast<off_t>(end_));
    return;
  }
  places_[key] = {end_ + sizeof(header), header.length, header.payload_crc};
  end_ += record.size();
}

std::size_t RecordStore::size() const {
  const std::lock_guard lock(mutex_);
  return places_.size();
}

void CacheOptions::add_to(Options& options) {
  options.add()("no-cache", po::bool_switch(&no_cache), "compute everything anew, and keep nothing of it");
}

std::unique_ptr<RecordStore> CacheOptions::open(const std::string& kind, const std::string& fingerprint) const {
  if (no_cache) return nullptr;
  const fs::path folder = cache_folder();
  if (folder.empty()) {
    debug("no cache: neither XDG_CACHE_HOME nor HOME is an absolute path");
    return nullptr;
  }
  try {
    return std::make_unique<RecordStore>(folder / kind / fingerprint);
  } catch (const Error& error) {
    warn(fmt::format("{}; going on without a cache", error.what()));
    return nullptr;
  }
}

}  // namespace vlmzoo::app
