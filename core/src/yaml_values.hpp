#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config_schema.hpp"
#include "yaml_tree.hpp"

namespace vlmzoo {

/// A value and the full path of its key. The functions below are strict: text in quotes is never a number, `yes` never
/// a boolean, 3.0 never an integer. Error: kConfig.
struct YamlValue {
  const YamlNode& node;
  std::string path;

  YamlValue item(std::size_t i) const;                          ///< of a list: "model.classifier.hidden_dims[0]"
  [[noreturn]] void refuse(const std::string& expected) const;  ///< "…: model.seed must be <expected>, got 'x'"
};

bool to_boolean(const YamlValue& value);
std::int64_t to_integer(const YamlValue& value, const Between& rule);
double to_number(const YamlValue& value, const Interval& rule);
std::string to_text(const YamlValue& value);

/// "section.key", or just the key at the top (section "").
std::string joined(const std::string& section, const std::string& key);

/// Names directly below `section` among full key paths, in their order.
std::vector<std::string> names_in(const std::string& section, const std::vector<std::string>& paths);

/// Error about a key of `section` that is none of the `known` full paths: what was probably meant, else what there is.
[[noreturn]] void refuse_unknown(const YamlNode& value, const std::string& section, const std::string& key,
                                 const std::vector<std::string>& known);

}  // namespace vlmzoo
