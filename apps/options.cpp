#include "options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options/errors.hpp>
#include <boost/program_options/parsers.hpp>
#include <boost/program_options/variables_map.hpp>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "output.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo::app {
namespace {

/// "max-new-tokens" -> "VLMZOO_MAX_NEW_TOKENS"
std::string environment_name(const std::string& option) {
  std::string result = "VLMZOO_";
  for (const char c : option) result += c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return result;
}

bool is_switch(const po::option_description& option) { return option.semantic()->max_tokens() == 0; }

/// Error: kUsage for a word that says neither yes nor no.
bool parse_switch(const std::string& variable, const std::string& value) {
  for (const char* word : {"1", "true", "yes", "on"}) {
    if (value == word) return true;
  }
  for (const char* word : {"0", "false", "no", "off"}) {
    if (value == word) return false;
  }
  throw Error(ErrorCode::kUsage, fmt::format("{}={}: expected 1 or 0", variable, value));
}

}  // namespace

Options::Options(Usage usage) : usage_(std::move(usage)), description_("Options", /*line_length=*/100) {
  add()("help", po::bool_switch(), "print this help and end");
  synonym("-h", "help");
}

const po::option_description* Options::find(const std::string& spelling) const {
  const auto synonym = synonyms_.find(spelling);
  const std::string name = synonym != synonyms_.end()   ? synonym->second
                           : spelling.starts_with("--") ? spelling.substr(2)
                                                        : std::string();
  for (const auto& option : description_.options()) {
    if (!name.empty() && option->long_name() == name) return option.get();
  }
  return nullptr;
}

void Options::refuse_unknown(const std::string& spelling) const {
  const std::string bare = spelling.substr(std::min(spelling.find_first_not_of('-'), spelling.size()));
  std::vector<std::string> names, longer;
  for (const auto& option : description_.options()) {
    names.push_back(option->long_name());
    if (!bare.empty() && names.back().starts_with(bare)) longer.push_back(names.back());
  }
  for (const auto& [synonym, name] : synonyms_) {
    if (synonym.starts_with("--")) names.push_back(synonym.substr(2));
  }
  std::string suggestion = nearest(bare, names);
  if (suggestion.empty() && longer.size() == 1) suggestion = longer.front();
  throw Error(ErrorCode::kUsage,
              fmt::format("unknown option '{}'{}", spelling,
                          suggestion.empty() ? "" : fmt::format("; did you mean '--{}'?", suggestion)));
}

std::vector<Options::Occurrence> Options::split(std::span<const std::string> arguments) const {
  std::vector<Occurrence> result;
  bool options_ended = false;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!options_ended && argument == "--") {
      options_ended = true;
      continue;
    }
    if (options_ended || argument.size() < 2 || argument.front() != '-') {
      if (positional_.empty()) throw Error(ErrorCode::kUsage, fmt::format("unexpected argument '{}'", argument));
      result.push_back({positional_, argument, true});
      continue;
    }
    const std::size_t equals = argument.find('=');
    const std::string spelling = argument.substr(0, equals);
    const po::option_description* option = find(spelling);
    if (option == nullptr) refuse_unknown(spelling);
    Occurrence occurrence{option->long_name(), "", false};
    if (is_switch(*option)) {
      if (equals != std::string::npos) {
        throw Error(ErrorCode::kUsage, fmt::format("option '{}' takes no value", spelling));
      }
    } else if (equals != std::string::npos) {
      occurrence.value = argument.substr(equals + 1);
      occurrence.has_value = true;
    } else {
      if (++i == arguments.size()) throw Error(ErrorCode::kUsage, fmt::format("option '{}' needs a value", spelling));
      occurrence.value = arguments[i];
      occurrence.has_value = true;
    }
    result.push_back(std::move(occurrence));
  }
  return result;
}

std::vector<Options::Occurrence> Options::environment() const {
  std::vector<Occurrence> result;
  for (const auto& option : description_.options()) {
    const std::string& name = option->long_name();
    if (name == "help" || given_.contains(name)) continue;
    const std::string variable = environment_name(name);
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr || *value == '\0') continue;
    if (!is_switch(*option)) {
      result.push_back({name, value, true});
    } else if (parse_switch(variable, value)) {
      result.push_back({name, "", false});
    }
  }
  return result;
}

void Options::store(const std::vector<Occurrence>& occurrences) {
  po::parsed_options parsed(&description_);
  for (const Occurrence& occurrence : occurrences) {
    given_.insert(occurrence.name);
    parsed.options.emplace_back(occurrence.name, occurrence.has_value ? std::vector<std::string>{occurrence.value}
                                                                      : std::vector<std::string>{});
  }
  po::variables_map variables;
  po::store(parsed, variables);
  // Options that weren't given keep what their variables hold: po::notify() would set every switch to its default
  // again.
  for (const auto& [name, value] : variables) {
    if (!value.defaulted()) description_.find(name, /*approx=*/false).semantic()->notify(value.value());
  }
}

bool Options::parse(std::span<const std::string> arguments) {
  const std::vector<Occurrence> occurrences = split(arguments);
  for (const Occurrence& occurrence : occurrences) {
    if (occurrence.name == "help") {
      print(help());
      return false;
    }
  }
  try {
    store(occurrences);
  } catch (const po::error& error) {
    throw Error(ErrorCode::kUsage, error.what());
  }
  typed_ = given_;
  for (const Occurrence& occurrence : environment()) {
    try {
      store({occurrence});
    } catch (const po::error& error) {
      throw Error(ErrorCode::kUsage, fmt::format("{}: {}", environment_name(occurrence.name), error.what()));
    }
  }
  return true;
}

std::string Options::help() const {
  std::ostringstream options;
  options << description_;
  std::string synonyms;
  for (const auto& [spelling, name] : synonyms_) {
    synonyms += fmt::format("{}{} = --{}", synonyms.empty() ? "" : ", ", spelling, name);
  }
  return fmt::format(
      "Usage: vlmzoo {} {}\n\n{}\n\n{}\nSynonyms: {}.\nEnvironment: VLMZOO_<OPTION> stands in for an option that isn't "
      "given, as in VLMZOO_QUIET=1.\n\nExample:\n  {}\n",
      usage_.verb, usage_.arguments, usage_.summary, options.str(), synonyms, usage_.example);
}

void require_utf8(std::string_view name, std::string_view value) {
  if (!is_utf8(value)) throw Error(ErrorCode::kUsage, fmt::format("the value of --{} has to be UTF-8", name));
}

void require_range(std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) {
    throw Error(ErrorCode::kUsage, fmt::format("--{} is {}; expected {} to {}", name, value, low, high));
  }
}

}  // namespace vlmzoo::app
