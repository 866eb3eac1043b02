#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

using Json = nlohmann::json;

/// Parses JSON that is at most 64 levels deep and names no key twice in one object. `where` (a file) begins the
/// message. Error: kCorrupt.
VLMZOO_API Json parse_json(std::string_view text, const std::string& where);

/// read_file + parse_json; the content has to be an object.
VLMZOO_API Json read_json(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 28);

/// Typed look into a JSON object with the file and the key's path in every message.
class VLMZOO_API JsonView {
 public:
  JsonView(const Json& object, std::string where, std::string path = "");

  bool has(const std::string& key) const;  ///< present and not null
  JsonView child(const std::string& key) const;

  /// Required value. Error: kConfig when missing, of another type, or outside [low, high].
  std::int64_t integer(const std::string& key, std::int64_t low, std::int64_t high) const;
  double number(const std::string& key) const;
  std::string text(const std::string& key) const;
  bool boolean(const std::string& key) const;

  /// The same with a value for absent keys.
  std::int64_t integer_or(const std::string& key, std::int64_t low, std::int64_t high, std::int64_t otherwise) const;
  double number_or(const std::string& key, double otherwise) const;
  std::string text_or(const std::string& key, const std::string& otherwise) const;
  bool boolean_or(const std::string& key, bool otherwise) const;

  const Json& json() const { return *object_; }
  /// "config.json: vision_config.hidden_size", for messages.
  std::string at(const std::string& key) const;

 private:
  const Json& get(const std::string& key, const char* expected) const;

  const Json* object_;
  std::string where_, path_;
};

}  // namespace vlmzoo
