#include "config_writer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "config_schema.hpp"

namespace vlmzoo {
namespace {

// Always in double quotes: no text is taken for a number, `true` or null when it is read again.
std::string render(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += fmt::format("\\x{:02x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}
std::string render(bool value) { return value ? "true" : "false"; }
std::string render(std::int64_t value) { return fmt::format("{}", value); }
std::string render(double value) { return fmt::format("{}", value); }
std::string render(const RolePrecision& value) {
  return fmt::format("{{vision: {}, connector: {}, language: {}}}", to_string(value.vision), to_string(value.connector),
                     to_string(value.language));
}
template <class T>
std::string render(const std::optional<T>& value) {
  return value ? render(*value) : "null";
}
template <class T>
std::string render(const std::vector<T>& values) {
  std::vector<std::string> items;
  for (const T& value : values) items.push_back(render(value));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

struct YamlWriter {
  std::string yaml;

  template <class T, class... Rules>
  void operator()(const Key& key, const T& value, const Rules&...) {
    write(key.path, render(value));
  }
  void operator()(const Key& key, const std::vector<std::string>& names, const ClassNames&) {
    std::vector<std::string> items;
    for (std::size_t i = 0; i < names.size(); ++i) items.push_back(fmt::format("{}: {}", i, render(names[i])));
    write(key.path, fmt::format("{{{}}}", fmt::join(items, ", ")));
  }

 private:
  void write(std::string_view path, const std::string& value) {
    std::string indent;
    std::size_t begin = 0;
    for (std::size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.', begin)) {
      if (!section_.starts_with(path.substr(0, dot + 1))) {
        yaml += fmt::format("{}{}:\n", indent, path.substr(begin, dot - begin));
      }
      indent += "  ";
      begin = dot + 1;
    }
    yaml += fmt::format("{}{}: {}\n", indent, path.substr(begin), value);
    section_ = path.substr(0, begin);
  }

  std::string section_;  // of the line before, "model.classifier."
};

}  // namespace

std::string to_yaml(const Config& config) {
  YamlWriter writer;
  visit_keys(config, writer);
  return writer.yaml;
}

}  // namespace vlmzoo
