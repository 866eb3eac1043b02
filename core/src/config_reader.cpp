#include "config_reader.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "config_schema.hpp"
#include "config_values.hpp"
#include "vlmzoo/log.hpp"
#include "yaml_values.hpp"

namespace vlmzoo {
namespace {

struct KeyCollector {
  std::vector<std::string> paths;

  template <class T, class... Rules>
  void operator()(const Key& key, const T&, const Rules&...) {
    paths.emplace_back(key.path);
    if (key.synonym) paths.emplace_back(key.synonym);
  }
};

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> paths = [] {
    const Config defaults;
    KeyCollector collector;
    visit_keys(defaults, collector);
    collector.paths.emplace_back(kTrustRemoteCode);
    collector.paths.emplace_back(kExtends);
    return collector.paths;
  }();
  return paths;
}

class LayerReader {
 public:
  LayerReader(const YamlNode& layer, std::map<std::string, std::string>& origins) : origins_(origins) {
    collect(layer, "");
  }

  template <class T, class... Rules>
  void operator()(const Key& key, T& member, const Rules&... rules) {
    const YamlNode* value = find(key.path);
    const YamlNode* other = key.synonym ? find(key.synonym) : nullptr;
    if (!value && !other) return;
    const T before = member;
    if (value) convert({*value, key.path}, member, rules...);
    if constexpr (std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::vector<std::string>>) {
      if (other) {
        T second = before;
        convert({*other, key.synonym}, second, rules...);
        if (value && member != second) {
          value->fail(fmt::format("{} and {} ({}) are two names of one setting and differ; keep one of them", key.path,
                                  key.synonym, other->where()));
        }
        member = second;
      }
    }
    origins_[key.path] = (value ? value : other)->where();
  }

  const YamlNode* find(const std::string& path) const {
    const auto found = values_.find(path);
    return found == values_.end() ? nullptr : found->second;
  }

 private:
  // Sorts the tree into known keys, and refuses all others.
  void collect(const YamlNode& node, const std::string& section) {
    if (node.kind == YamlNode::Kind::kNull) return;
    const std::vector<std::string>& known = known_keys();
    if (node.kind != YamlNode::Kind::kMap) {
      node.fail(fmt::format("{} must be a map of keys ({}), got {}", section.empty() ? "a configuration" : section,
                            fmt::join(names_in(section, known), ", "), node.shown()));
    }
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const std::string path = joined(section, node.keys[i]);
      const bool name = !node.keys[i].empty() && node.keys[i].find('.') == std::string::npos;
      if (name && std::find(known.begin(), known.end(), path) != known.end()) {
        values_[path] = &node.items[i];
      } else if (name && !names_in(path, known).empty()) {
        collect(node.items[i], path);
      } else {
        refuse_unknown(node.items[i], section, node.keys[i], known);
      }
    }
  }

  static bool is_null(const YamlValue& value) { return value.node.kind == YamlNode::Kind::kNull; }

  static void convert(const YamlValue& value, bool& out) { out = to_boolean(value); }
  static void convert(const YamlValue& value, std::int64_t& out, const Between& rule) { out = to_integer(value, rule); }
  static void convert(const YamlValue& value, double& out, const Interval& rule) { out = to_number(value, rule); }
  static void convert(const YamlValue& value, std::string& out) { out = to_text(value); }
  static void convert(const YamlValue& value, std::string& out, const NotEmpty&) {
    out = to_text(value);
    if (out.empty()) value.refuse("text that is not empty");
  }
  static void convert(const YamlValue& value, RolePrecision& out) { out = to_precision(value, out); }

  static void convert(const YamlValue& value, std::string& out, const OneOf& rule) {
    out = to_text(value);
    if (out.find_first_of(" |") != std::string::npos ||
        fmt::format(" {} ", rule.words).find(" " + out + " ") == std::string::npos) {
      value.refuse(std::string(rule.words));
    }
  }
  static void convert(const YamlValue& value, std::string& out, const FilePath&) {
    out = is_null(value) ? "" : resolve_path(to_text(value), value.node.source->folder);
  }
  static void convert(const YamlValue& value, std::string& out, const Lowered&) {
    out = is_null(value) ? "" : lowered(to_text(value));
  }
  static void convert(const YamlValue& value, std::string& out, const DeviceName&) {
    out = to_text(value);
    if (!is_device(out)) value.refuse("auto | cpu | cuda | cuda:N");
  }
  static void convert(const YamlValue& value, std::vector<std::string>& out, const ClassNames&) {
    out = to_class_names(value, value.path.ends_with("label2id"));
  }

  template <class T, class... Rules>
  static void convert(const YamlValue& value, std::optional<T>& out, const Rules&... rules) {
    out.reset();
    if (!is_null(value)) convert(value, out.emplace(), rules...);
  }

  template <class T, class... Rules>
  static void convert(const YamlValue& value, std::vector<T>& out, const Lengths& lengths, const Rules&... rules) {
    if (value.node.kind != YamlNode::Kind::kList) value.refuse("a list");
    if (value.node.items.size() > lengths.most) {
      value.node.fail(
          fmt::format("{} must have at most {} entries, got {}", value.path, lengths.most, value.node.items.size()));
    }
    out.assign(value.node.items.size(), T{});
    for (std::size_t i = 0; i < out.size(); ++i) {
      convert(value.item(i), out[i], rules...);
    }
  }

  std::map<std::string, std::string>& origins_;
  std::map<std::string, const YamlNode*> values_;
};

}  // namespace

void apply_layer(const YamlNode& layer, Config& config) {
  LayerReader reader(layer, config.origins);
  visit_keys(config, reader);
  if (const YamlNode* trust = reader.find(kTrustRemoteCode)) {
    if (to_boolean({*trust, kTrustRemoteCode})) {
      warn_once("model.trust_remote_code has no effect: code in a model folder is never run");
    }
  }
}

}  // namespace vlmzoo
