#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "options.hpp"
#include "session.hpp"

/// What was computed once and holds as long as its inputs do: features of pictures, answers, results.
namespace vlmzoo::app {

/// `$XDG_CACHE_HOME/vlmzoo`, else `~/.cache/vlmzoo`; empty where neither variable is an absolute path.
std::filesystem::path cache_folder();

/// 64 hex digits that change with whatever changes the outputs of the session's model: headers, sizes and mtimes of the
/// checkpoint's files, the contents of its JSON files, resolved precision and device, what the processor computes with,
/// plugin (name, version, file), image pipeline, tiles, system prompt. Not with the head. Errors: as creating the model
/// has for its folder.
std::string model_fingerprint(const Session& session);

/// SHA-256 of the file's bytes, as 64 hex digits. Errors: kNotFound, kIo.
std::string picture_hash(const std::filesystem::path& picture);

using RecordKey = std::array<std::byte, 32>;

/// SHA-256 over the parts and where each ends.
RecordKey record_key(std::span<const std::string> parts);

/// An append-only file of records, open for reading and writing: {magic, payload's length, key, CRC-32 of the payload,
/// CRC-32 of all that}, payload. Broken records are as good as absent, and a broken tail (a crash, a full disk) is cut
/// off by the next put(). Appends happen under flock, so processes may share a file. Of two records with one key the
/// later counts. Functions may run concurrently.
class RecordStore {
 public:
  /// Makes the file and its folders where they are missing. Error: kIo.
  explicit RecordStore(const std::filesystem::path& file);
  ~RecordStore();
  RecordStore(const RecordStore&) = delete;
  RecordStore& operator=(const RecordStore&) = delete;

  std::optional<std::string> get(const RecordKey& key) const;
  /// A cache is never worth an error: where the record can't be written (full disk) this warns once and does nothing
  /// from then on.
  void put(const RecordKey& key, std::string_view payload);

  std::size_t size() const;  ///< different keys
  const std::filesystem::path& file() const { return file_; }

 private:
  struct Place {
    std::uint64_t offset = 0, length = 0;  // of the payload
    std::uint32_t crc = 0;
  };
  void scan();

  std::filesystem::path file_;
  int descriptor_ = -1;
  std::uint64_t end_ = 0;  // behind the last good record seen
  bool full_ = false;
  std::map<RecordKey, Place> places_;
  mutable std::mutex mutex_;
};

/// `--no-cache`, of verbs that have one.
struct CacheOptions {
  bool no_cache = false;

  void add_to(Options& options);
  /// The store `cache_folder()/kind/fingerprint`; null with `--no-cache`, and with a warning where the folder can't be
  /// written to.
  std::unique_ptr<RecordStore> open(const std::string& kind, const std::string& fingerprint) const;
};

}  // namespace vlmzoo::app
