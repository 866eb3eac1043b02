#include "yaml_values.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

bool is_plain(const YamlNode& node) { return node.kind == YamlNode::Kind::kScalar && !node.quoted; }

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string_view without_sign(std::string_view text) {
  return text.starts_with('-') || text.starts_with('+') ? text.substr(1) : text;
}

// 010 is eight to YAML 1.1 and ten to YAML 1.2, so it is neither here.
bool looks_integer(std::string_view text) {
  const std::string_view digits = without_sign(text);
  return all_digits(digits) && (digits.size() == 1 || digits[0] != '0');
}

std::string describe(const Between& rule) {
  if (rule.high == std::numeric_limits<std::int64_t>::max()) return fmt::format("an integer of at least {}", rule.low);
  return fmt::format("an integer between {} and {}", rule.low, rule.high);
}

std::string describe(const Interval& rule) {
  return fmt::format("a number {} {} and {} {}", rule.low_open ? "above" : "of at least", rule.low,
                     rule.high_open ? "below" : "at most", rule.high);
}

// Empty for what is no decimal number; infinite for one that a double can't hold.
std::optional<double> parse_number(std::string_view text) {
  const std::string_view digits = without_sign(text);
  if (digits.empty() || digits.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  double number = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, number);
  if (stop != end || error == std::errc::invalid_argument || digits[0] == '-') return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::numeric_limits<double>::infinity();
  return text[0] == '-' ? -number : number;
}

}  // namespace

YamlValue YamlValue::item(std::size_t i) const { return {node.items[i], fmt::format("{}[{}]", path, i)}; }

void YamlValue::refuse(const std::string& expected) const {
  node.fail(fmt::format("{} must be {}, got {}", path, expected, node.shown()));
}

bool to_boolean(const YamlValue& value) {
  if (is_plain(value.node) && value.node.text == "true") return true;
  if (is_plain(value.node) && value.node.text == "false") return false;
  value.refuse("true or false");
}

std::int64_t to_integer(const YamlValue& value, const Between& rule) {
  if (!is_plain(value.node) || !looks_integer(value.node.text)) value.refuse("an integer");
  const std::string_view text = value.node.text;
  const std::string_view number_text = text[0] == '+' ? text.substr(1) : text;
  std::int64_t number = 0;
  const auto result = std::from_chars(number_text.data(), number_text.data() + number_text.size(), number);
  if (result.ec != std::errc() || number < rule.low || number > rule.high) value.refuse(describe(rule));
  return number;
}

double to_number(const YamlValue& value, const Interval& rule) {
  const std::optional<double> number = is_plain(value.node) ? parse_number(value.node.text) : std::nullopt;
  if (!number) value.refuse("a finite number");
  const bool low = rule.low_open ? *number > rule.low : *number >= rule.low;
  const bool high = rule.high_open ? *number < rule.high : *number <= rule.high;
  if (!std::isfinite(*number) || !low || !high) value.refuse(describe(rule));
  return *number;
}

std::string to_text(const YamlValue& value) {
  if (value.node.kind != YamlNode::Kind::kScalar) value.refuse("text");
  const std::string& text = value.node.text;
  if (is_plain(value.node) &&
      (text == "true" || text == "false" || all_digits(without_sign(text)) || parse_number(text))) {
    value.refuse("text (in double quotes, if this is what you mean)");
  }
  return text;
}

std::string joined(const std::string& section, const std::string& key) {
  return section.empty() ? key : section + "." + key;
}

std::vector<std::string> names_in(const std::string& section, const std::vector<std::string>& paths) {
  const std::string prefix = section.empty() ? "" : section + ".";
  std::vector<std::string> names;
  for (const std::string& path : paths) {
    if (!path.starts_with(prefix)) continue;
    std::string name = path.substr(prefix.size(), path.find('.', prefix.size()) - prefix.size());
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

void refuse_unknown(const YamlNode& value, const std::string& section, const std::string& key,
                    const std::vector<std::string>& known) {
  const std::string path = joined(section, key);
  const std::string unknown = fmt::format("unknown key '{}'", shortened(path));
  if (std::find(known.begin(), known.end(), path) != known.end()) {
    value.fail(fmt::format("{}: in a file, keys are nested below each other, not joined by dots", unknown));
  }
  std::vector<std::string> elsewhere;  // the right name in the wrong section
  for (const std::string& candidate : known) {
    if (candidate.ends_with("." + key)) elsewhere.push_back(candidate);
  }
  if (!elsewhere.empty()) value.fail(fmt::format("{}; did you mean '{}'?", unknown, fmt::join(elsewhere, "' or '")));
  const std::vector<std::string> names = names_in(section, known);
  const std::string close = nearest(key, names);
  if (!close.empty()) value.fail(fmt::format("{}; did you mean '{}'?", unknown, joined(section, close)));
  value.fail(fmt::format("{}; known here: {}", unknown, fmt::join(names, ", ")));
}

}  // namespace vlmzoo
