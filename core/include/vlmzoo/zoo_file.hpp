#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// A zoo file names configurations and says which one is active:
///   active: small
///   models: {small: small.yaml, large: large.yaml}
struct Zoo {
  std::filesystem::path file;
  std::string active;                                                 ///< one of `models`
  std::vector<std::pair<std::string, std::filesystem::path>> models;  ///< name, configuration; in the file's order

  /// Configuration of `name`. Error: kNotFound, naming the known ones and the nearest.
  VLMZOO_API const std::filesystem::path& config(const std::string& name) const;
  VLMZOO_API std::vector<std::string> names() const;
};

/// Reads the text of `file`, in whose folder relative configurations lie; they need not exist. As strict as
/// load_config(): unknown keys, anchors, duplicate keys and empty values are refused. Names hold no quotes, backslashes
/// or control characters. Error: kConfig, beginning with file:line.
VLMZOO_API Zoo parse_zoo(std::string_view text, const std::filesystem::path& file);

/// The text with `name` for the value of `active:` and every other byte as it was; the value keeps its quotes. Errors:
/// those of parse_zoo(), kNotFound for a name that isn't among the models, kConfig when the value doesn't stand on the
/// line of its key.
VLMZOO_API std::string with_active(std::string_view text, const std::filesystem::path& file, const std::string& name);

}  // namespace vlmzoo
