#include "config_values.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "shortened.hpp"

namespace vlmzoo {

std::string lowered(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

// Absolute when it exists beside its file, so that the resolved configuration means the same wherever it is stored.
// What doesn't exist there may be a name in the hub cache.
std::string resolve_path(const std::string& text, const std::filesystem::path& folder) {
  if (text.empty() || std::filesystem::path(text).is_absolute()) return text;
  std::error_code error;
  const std::filesystem::path plain = std::filesystem::absolute(folder / text, error);
  if (error || !std::filesystem::exists(plain, error)) return text;
  // After a symbolic link, `..` isn't what it seems.
  const std::filesystem::path tidy = plain.lexically_normal();
  return (std::filesystem::equivalent(plain, tidy, error) ? tidy : plain).string();
}

bool is_device(const std::string& text) {
  if (text == "auto" || text == "cpu" || text == "cuda") return true;
  if (!text.starts_with("cuda:")) return false;
  const std::string number = text.substr(5);
  return !number.empty() && number.size() <= 2 && number.find_first_not_of("0123456789") == std::string::npos &&
         (number.size() == 1 || number[0] != '0');
}

// {0: cat, 1: dog}, or {cat: 0, dog: 1} when `inverse`.
std::vector<std::string> to_class_names(const YamlValue& value, bool inverse) {
  if (value.node.kind == YamlNode::Kind::kNull) return {};
  if (value.node.kind != YamlNode::Kind::kMap) {
    value.refuse(inverse ? "a map of names to numbers, {cat: 0, dog: 1}"
                         : "a map of numbers to names, {0: cat, 1: dog}");
  }
  const std::size_t count = value.node.items.size();
  const std::string range = fmt::format("the {} classes have to be numbered 0 to {}", count, count - 1);
  std::vector<std::optional<std::string>> names(count);
  std::map<std::string, std::size_t> numbers;
  for (std::size_t i = 0; i < count; ++i) {
    YamlNode key;  // plain even when it was in quotes, as all keys in JSON are
    key.kind = YamlNode::Kind::kScalar;
    key.line = value.node.items[i].line;
    key.source = value.node.source;
    key.text = value.node.keys[i];
    const YamlValue entry{value.node.items[i], fmt::format("{}.{}", value.path, shortened(key.text))};
    const YamlValue number{inverse ? entry.node : key, inverse ? entry.path : "a key of " + value.path};
    const std::int64_t at = to_integer(number, {0, std::numeric_limits<std::int64_t>::max()});
    const std::string name = inverse ? key.text : to_text(entry);
    if (name.empty()) entry.node.fail(fmt::format("{} has an empty name", value.path));
    if (at >= static_cast<std::int64_t>(count)) entry.node.fail(fmt::format("{} has {}; {}", value.path, at, range));
    const auto position = static_cast<std::size_t>(at);
    if (names[position]) entry.node.fail(fmt::format("{} has {} twice; {}", value.path, at, range));
    const auto [other, fresh] = numbers.emplace(name, position);
    if (!fresh) {
      entry.node.fail(
          fmt::format("{} gives the name '{}' to {} and {}", value.path, shortened(name), other->second, at));
    }
    names[position] = name;
  }
  std::vector<std::string> result;
  for (std::optional<std::string>& name : names) result.push_back(std::move(*name));
  return result;
}

RolePrecision to_precision(const YamlValue& value, RolePrecision precision) {
  const auto parse = [](const YamlValue& one) {
    if (one.node.kind != YamlNode::Kind::kScalar) one.refuse("auto | fp32 | bf16 | fp16 | int8");
    return parse_precision(one.node.text, fmt::format("{}: {}", one.node.where(), one.path));
  };
  if (value.node.kind != YamlNode::Kind::kMap) {
    const Precision all = parse(value);
    return {all, all, all};
  }
  const std::pair<const char*, Precision*> roles[] = {
      {"vision", &precision.vision}, {"connector", &precision.connector}, {"language", &precision.language}};
  std::vector<std::string> known;
  for (const auto& role : roles) known.push_back(joined(value.path, role.first));
  for (std::size_t i = 0; i < value.node.items.size(); ++i) {
    const std::string path = joined(value.path, value.node.keys[i]);
    const auto role = std::find(known.begin(), known.end(), path);
    if (role == known.end()) refuse_unknown(value.node.items[i], value.path, value.node.keys[i], known);
    *roles[role - known.begin()].second = parse({value.node.items[i], path});
  }
  return precision;
}

}  // namespace vlmzoo
