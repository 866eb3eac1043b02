#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace vlmzoo {

/// Where YAML text came from: a file, or one `--set` (no lines).
struct YamlSource {
  std::string name;              ///< as messages show it
  std::filesystem::path folder;  ///< relative paths in the text resolve against it
  bool has_lines = true;
};

/// One value of a YAML document, with its origin.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  bool quoted = false;            ///< a scalar in quotes or a block scalar: text, whatever it looks like
  int line = 0;                   ///< from 1; of the key for a value in a map
  std::string text;               ///< of a scalar
  std::vector<std::string> keys;  ///< of a map, keys[i] names items[i]; empty for a list
  std::vector<YamlNode> items;    ///< in the order of the text
  std::shared_ptr<const YamlSource> source;

  std::string where() const;                               ///< "configs/a.yaml:3"
  std::string shown() const;                               ///< the value for messages: "'three'", "a list"
  [[noreturn]] void fail(std::string_view message) const;  ///< Error(kConfig, where() + ": " + message)
};

/// Parses one YAML document; an empty one is kNull. Refused: what is not UTF-8, control characters, anchors, aliases,
/// tags, keys that are not text, duplicate keys, nesting deeper than 32, a second document. Error: kConfig, beginning
/// with the source and line.
YamlNode parse_yaml(std::string_view text, std::shared_ptr<const YamlSource> source);

}  // namespace vlmzoo
