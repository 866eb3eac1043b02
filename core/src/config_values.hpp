#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "vlmzoo/config.hpp"
#include "yaml_values.hpp"

namespace vlmzoo {

/// ASCII letters only.
std::string lowered(std::string text);

/// `text` as an absolute path when it is relative and exists in `folder`, else unchanged.
std::string resolve_path(const std::string& text, const std::filesystem::path& folder);

bool is_device(const std::string& text);

/// Names by number from {0: cat, 1: dog}, or from {cat: 0, dog: 1} when `inverse`; numbered 0 to n-1, no name twice.
std::vector<std::string> to_class_names(const YamlValue& value, bool inverse);

/// One word for all roles, or a map that changes those of `precision` that it names.
RolePrecision to_precision(const YamlValue& value, RolePrecision precision);

}  // namespace vlmzoo
