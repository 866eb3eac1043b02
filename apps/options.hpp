#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vlmzoo::app {

namespace po = boost::program_options;

/// The words of a verb's help.
struct Usage {
  std::string verb;       ///< "classify"
  std::string arguments;  ///< what stands behind the verb: "[options] FILE|FOLDER…"
  std::string summary;
  std::string example;  ///< one whole command line
};

/// The options of one verb. Boost.Program_options declares and converts them; the command line is taken apart here,
/// because the rules are stricter and in places wider than Boost's: names are never completed, a value may begin with
/// '-' or be empty, an option takes one value each time it is given. For options that the command line leaves out, the
/// environment variable VLMZOO_<NAME> counts.
class Options {
 public:
  explicit Options(Usage usage);

  /// Declares options bound to variables: add()("name", po::value(&variable)->value_name("FILE"), "what it does").
  po::options_description_easy_init add() { return description_.add_options(); }
  /// `spelling` ("-p", "--max-tokens") reads as the option `name`.
  void synonym(const std::string& spelling, const std::string& name) { synonyms_[spelling] = name; }
  /// Arguments that are no option belong to `name`.
  void positional(const std::string& name) { positional_ = name; }

  /// Fills the variables. False: help was asked for and is printed. Error: kUsage.
  bool parse(std::span<const std::string> arguments);

  /// True when the command line or the environment gave the option.
  bool given(const std::string& name) const { return given_.contains(name); }
  /// True when the command line did.
  bool typed(const std::string& name) const { return typed_.contains(name); }
  std::string help() const;

 private:
  struct Occurrence {
    std::string name, value;
    bool has_value = false;
  };
  std::vector<Occurrence> split(std::span<const std::string> arguments) const;
  const po::option_description* find(const std::string& spelling) const;
  [[noreturn]] void refuse_unknown(const std::string& spelling) const;
  void store(const std::vector<Occurrence>& occurrences);
  std::vector<Occurrence> environment() const;

  Usage usage_;
  po::options_description description_;
  std::map<std::string, std::string> synonyms_;
  std::string positional_;
  std::set<std::string> given_, typed_;
};

/// Error: kUsage when `value` of option `name` is not UTF-8.
void require_utf8(std::string_view name, std::string_view value);

/// Error: kUsage when `value` of option `name` lies outside [low, high].
void require_range(std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high);

}  // namespace vlmzoo::app
