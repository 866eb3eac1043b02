#include "vlmzoo/zoo_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "yaml_values.hpp"

namespace vlmzoo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kActive = "active";
constexpr const char* kModels = "models";
constexpr std::size_t kLongestName = 100;

void check_name(const YamlNode& node, const std::string& name) {
  const bool odd = std::any_of(name.begin(), name.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7F || c == '"' || c == '\'' || c == '\\';
  });
  if (!odd && !name.empty() && name.size() <= kLongestName) return;
  node.fail(
      fmt::format("'{}' can't be the name of a model: 1 to {} bytes are expected, without quotes, backslashes and "
                  "control characters",
                  shortened(name), kLongestName));
}

const YamlNode& require(const YamlNode& root, const char* key) {
  const auto found = std::find(root.keys.begin(), root.keys.end(), key);
  if (found != root.keys.end()) return root.items[static_cast<std::size_t>(found - root.keys.begin())];
  root.fail(fmt::format("'{}' is missing; a zoo file is 'active: NAME' and 'models: {{NAME: CONFIG.yaml, …}}'", key));
}

YamlNode parse_root(std::string_view text, const fs::path& file) {
  YamlNode root =
      parse_yaml(text, std::make_shared<YamlSource>(YamlSource{file.string(), file.parent_path(), /*has_lines=*/true}));
  if (root.kind != YamlNode::Kind::kMap) {
    root.fail(fmt::format("a zoo file must be a map of keys ({}, {}), got {}; it is empty or not one", kActive, kModels,
                          root.shown()));
  }
  const std::vector<std::string> known = {kActive, kModels};
  for (std::size_t i = 0; i < root.keys.size(); ++i) {
    if (std::find(known.begin(), known.end(), root.keys[i]) == known.end()) {
      refuse_unknown(root.items[i], "", root.keys[i], known);
    }
  }
  return root;
}

void read_models(const YamlNode& models, Zoo& zoo) {
  if (models.kind != YamlNode::Kind::kMap || models.items.empty()) {
    models.fail(fmt::format("{} must be a map of names and configurations, got {}", kModels, models.shown()));
  }
  for (std::size_t i = 0; i < models.items.size(); ++i) {
    const YamlNode& node = models.items[i];
    check_name(node, models.keys[i]);
    const YamlValue value{node, joined(kModels, models.keys[i])};
    const std::string path = to_text(value);
    if (path.empty()) value.refuse("the path of a configuration");
    zoo.models.emplace_back(models.keys[i], (zoo.file.parent_path() / path).lexically_normal());
  }
}

std::string unknown_name(const Zoo& zoo, const std::string& name) {
  const std::vector<std::string> names = zoo.names();
  const std::string close = nearest(name, names);
  return fmt::format("there is no model '{}'; {}there are: {}", shortened(name),
                     close.empty() ? "" : fmt::format("did you mean '{}'? ", close), fmt::join(names, ", "));
}

/// Where the value of `active` stands in `text`, within its quotes; `line` counts from 1. Empty where it isn't what
/// follows the key on that line.
struct Place {
  std::size_t begin = 0, end = 0;
  bool quoted = false;
};

bool find_value(std::string_view text, int line, std::string_view value, Place& place) {
  std::size_t at = 0;
  for (int i = 1; i < line; ++i) at = text.find('\n', at) + 1;
  const std::string_view content = text.substr(0, std::min(text.find('\n', at), text.size()));
  const auto skip_blanks = [&] {
    const std::size_t from = at;
    while (at < content.size() && (content[at] == ' ' || content[at] == '\t')) ++at;
    return at > from;
  };
  const auto skip = [&](std::string_view expected) {
    if (content.substr(at, expected.size()) != expected) return false;
    at += expected.size();
    return true;
  };
  if (line == 1) skip("\xEF\xBB\xBF");  // a byte order mark
  skip_blanks();
  if (!skip("active") && !skip("\"active\"") && !skip("'active'")) return false;
  skip_blanks();
  if (!skip(":") || !skip_blanks()) return false;
  const std::string_view quote =
      content.substr(at, 1) == "\"" || content.substr(at, 1) == "'" ? content.substr(at, 1) : "";
  skip(quote);
  place = {at, at + value.size(), !quote.empty()};
  if (!skip(value) || !skip(quote)) return false;
  const bool blank = skip_blanks();
  return at == content.size() || content[at] == '\r' || (blank && content[at] == '#');
}

}  // namespace

const fs::path& Zoo::config(const std::string& name) const {
  for (const auto& [known, path] : models) {
    if (known == name) return path;
  }
  throw Error(ErrorCode::kNotFound, fmt::format("{}: {}", file.string(), unknown_name(*this, name)));
}

std::vector<std::string> Zoo::names() const {
  std::vector<std::string> result;
  for (const auto& [name, path] : models) result.push_back(name);
  return result;
}

Zoo parse_zoo(std::string_view text, const fs::path& file) {
  const YamlNode root = parse_root(text, file);
  Zoo zoo;
  zoo.file = file;
  read_models(require(root, kModels), zoo);
  const YamlNode& active = require(root, kActive);
  zoo.active = to_text({active, kActive});
  const std::vector<std::string> names = zoo.names();
  if (std::find(names.begin(), names.end(), zoo.active) == names.end()) {
    active.fail(fmt::format("{}: {}; correct the line", kActive, unknown_name(zoo, zoo.active)));
  }
  return zoo;
}

std::string with_active(std::string_view text, const fs::path& file, const std::string& name) {
  const Zoo zoo = parse_zoo(text, file);
  zoo.config(name);
  const YamlNode root = parse_root(text, file);
  const YamlNode& active = require(root, kActive);
  Place place;
  if (!find_value(text, active.line, zoo.active, place)) {
    active.fail("the value of active can't be exchanged here; write 'active: NAME' on a line of its own");
  }
  // Read back before anyone uses it. A plain value that reads as something else (true, 7, a: b) gets quotes.
  for (const char* quote : {"", "\""}) {
    std::string result(text);
    result.replace(place.begin, place.end - place.begin, fmt::format("{0}{1}{0}", quote, name));
    try {
      const Zoo changed = parse_zoo(result, file);
      if (changed.active == name && changed.models == zoo.models) return result;
    } catch (const Error&) {
      if (place.quoted) throw;
    }
    if (place.quoted) break;
  }
  active.fail(fmt::format("'{}' can't be written here; write 'active: \"{}\"' by hand", name, name));
}

}  // namespace vlmzoo
