#include "tokenizer_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo {
namespace {

constexpr std::size_t kLongestAddedToken = 1024;  // bounds the work of looking for them

// transformers, Qwen2Converter.
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// A value and its place in the file. (JsonView reads configuration: kConfig. A wrong type here is a broken file.)
class Node {
 public:
  Node(const Json& json, std::string file, std::string field = "")
      : json_(&json), file_(std::move(file)), field_(std::move(field)) {}

  const Json& json() const { return *json_; }
  std::string place() const { return field_.empty() ? file_ : file_ + ": " + field_; }

  [[noreturn]] void corrupt(const std::string& why) const { throw Error(ErrorCode::kCorrupt, place() + ": " + why); }
  [[noreturn]] void unsupported(const std::string& why) const {
    throw Error(ErrorCode::kUnsupported, place() + ": " + why);
  }

  /// Member of an object; null when absent.
  Node operator[](const std::string& key) const {
    static const Json kAbsent;
    const auto found = expect(json_->is_object(), "an object").json_->find(key);
    return {found == json_->end() ? kAbsent : *found, file_, field_.empty() ? key : field_ + "." + key};
  }
  Node element(std::size_t index) const { return {(*json_)[index], file_, fmt::format("{}[{}]", field_, index)}; }
  const Json::object_t& members() const {
    return expect(json_->is_object(), "an object").json_->get_ref<const Json::object_t&>();
  }
  std::size_t list_size() const { return expect(json_->is_array(), "a list").json_->size(); }

  bool is_null() const { return json_->is_null(); }
  const std::string& text() const { return expect(json_->is_string(), "a text").json_->get_ref<const std::string&>(); }
  bool boolean() const { return expect(json_->is_boolean(), "true or false").json_->get<bool>(); }
  bool boolean_or(bool otherwise) const { return is_null() ? otherwise : boolean(); }
  std::uint32_t id() const {
    const bool fits = json_->is_number_unsigned() && json_->get<std::uint64_t>() < std::uint64_t{kIdLimit};
    return expect(fits, fmt::format("an id from 0 to {}", kIdLimit - 1)).json_->get<std::uint32_t>();
  }

  /// For a text that is none of those this program knows.
  [[noreturn]] void refuse(std::string_view expected) const {
    unsupported(fmt::format("'{}' is not supported, expected {}", shortened(text()), expected));
  }

  void expect_null_or_empty() const {
    if (!is_null() && *json_ != "") unsupported("is not supported, expected null");
  }
  void expect_boolean(bool value, bool when_absent) const {
    if (boolean_or(when_absent) != value) unsupported(fmt::format("{} is not supported", !value));
  }

 private:
  const Node& expect(bool right, std::string_view expected) const {
    if (right) return *this;
    const std::string value = json_->is_number() || json_->is_boolean() ? json_->dump() : json_->type_name();
    corrupt(fmt::format("expected {}, got {}", expected, is_null() ? "nothing" : value));
  }

  const Json* json_;
  std::string file_, field_;
};

std::unique_ptr<Vocabulary> read_vocabulary(const Node& node) {
  if (!node.json().is_object()) node.corrupt("expected an object of ids by token");
  const auto& entries = node.json().get_ref<const Json::object_t&>();
  std::size_t size = 0;
  for (const auto& [token, id] : entries) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= std::uint64_t{kIdLimit}) {
      node.corrupt(fmt::format("'{}' has the id {}, expected one from 0 to {}", shortened(token),
                               shortened(id.dump(-1, ' ', true, Json::error_handler_t::replace)), kIdLimit - 1));
    }
    size = std::max(size, id.get<std::size_t>() + 1);
  }
  auto vocabulary = std::make_unique<Vocabulary>(size, entries.size());
  for (const auto& [token, id] : entries) {
    if (!vocabulary->add(token, id.get<std::uint32_t>())) {
      node.corrupt(fmt::format("'{}' is empty, or another token has its id {}", shortened(token), id.dump()));
    }
  }
  return vocabulary;
}

/// The two halves of a merge, written "a b" or ["a", "b"]; false for anything else.
bool read_halves(const Json& json, std::string_view& left, std::string_view& right) {
  if (json.is_string()) {
    const std::string_view line = json.get_ref<const std::string&>();
    const std::size_t space = line.find(' ');
    if (space == line.npos || line.find(' ', space + 1) != line.npos) return false;
    left = line.substr(0, space);
    right = line.substr(space + 1);
    return true;
  }
  if (!json.is_array() || json.size() != 2 || !json[0].is_string() || !json[1].is_string()) return false;
  left = json[0].get_ref<const std::string&>();
  right = json[1].get_ref<const std::string&>();
  return true;
}

std::vector<BpeMerge> read_merges(const Node& node, const Vocabulary& vocabulary) {
  std::vector<BpeMerge> merges;
  merges.reserve(node.list_size());
  std::string joined;
  for (std::size_t i = 0; i < node.list_size(); ++i) {
    const Json& json = node.json()[i];
    // A line of merges.txt that the reference drops as well.
    if (json.is_string() && json.get_ref<const std::string&>().starts_with("#version")) continue;
    std::string_view left, right;
    if (!read_halves(json, left, right)) node.element(i).corrupt("expected \"a b\" or [\"a\", \"b\"]");
    joined.assign(left).append(right);
    const auto id = [&](std::string_view token) {
      const std::int64_t found = vocabulary.id_of(token);
      if (found < 0) node.element(i).corrupt(fmt::format("'{}' is not in model.vocab", shortened(token)));
      return static_cast<std::uint32_t>(found);
    };
    merges.push_back({id(left), id(right), id(joined)});
  }
  return merges;
}

void read_model(const Node& node, TokenizerFile& file) {
  if (node["type"].text() != "BPE") node["type"].refuse("BPE");
  if (const Node dropout = node["dropout"]; !dropout.is_null() && dropout.json() != 0.0) {
    dropout.unsupported("is not supported, expected null");
  }
  node["continuing_subword_prefix"].expect_null_or_empty();
  node["end_of_word_suffix"].expect_null_or_empty();
  node["byte_fallback"].expect_boolean(false, false);
  file.ignore_merges = node["ignore_merges"].boolean_or(false);
  file.vocabulary = read_vocabulary(node["vocab"]);
  file.merges = read_merges(node["merges"], *file.vocabulary);
}

bool reads_nfc(const Node& node) {
  if (node.is_null()) return false;
  const std::string& type = node["type"].text();
  if (type == "NFC") return true;
  if (type != "Sequence") node["type"].refuse("NFC or null");
  bool nfc = false;
  for (std::size_t i = 0; i < node["normalizers"].list_size(); ++i) nfc |= reads_nfc(node["normalizers"].element(i));
  return nfc;
}

void read_split(const Node& node, std::vector<Pattern>& patterns) {
  if (node["behavior"].text() != "Isolated") node["behavior"].refuse("Isolated");
  node["invert"].expect_boolean(false, false);
  const Node pattern = node["pattern"];
  if (!pattern["String"].is_null()) pattern["String"].refuse("a Regex");
  patterns.emplace_back(pattern["Regex"].text(), pattern["Regex"].place());
}

void read_byte_level(const Node& node, std::vector<Pattern>& patterns) {
  node["add_prefix_space"].expect_boolean(false, true);
  if (node["use_regex"].boolean_or(true)) patterns.emplace_back(kGpt2Pattern, node.place());
}

std::vector<Pattern> read_pre_tokenizer(const Node& node) {
  std::vector<Pattern> patterns;
  if (node.is_null()) node.unsupported("null is not supported, expected ByteLevel or a Sequence that ends with it");
  const std::string& type = node["type"].text();
  if (type == "ByteLevel") {
    read_byte_level(node, patterns);
    return patterns;
  }
  if (type != "Sequence") node["type"].refuse("ByteLevel or Sequence");
  const Node steps = node["pretokenizers"];
  const std::size_t count = steps.list_size();
  if (count == 0) steps.unsupported("is empty, expected Split and ByteLevel");
  for (std::size_t i = 0; i < count; ++i) {
    const Node step = steps.element(i);
    const bool last = i + 1 == count;
    if (step["type"].text() != (last ? "ByteLevel" : "Split")) {
      step["type"].refuse(last ? "ByteLevel at the end" : "Split before ByteLevel");
    }
    if (last) {
      read_byte_level(step, patterns);
    } else {
      read_split(step, patterns);
    }
  }
  return patterns;
}

std::vector<AddedToken> read_added_tokens(const Node& node, const Vocabulary& vocabulary) {
  std::vector<AddedToken> tokens;
  if (node.is_null()) return tokens;
  std::unordered_set<std::string> seen;
  std::size_t next = vocabulary.count();
  for (std::size_t i = 0; i < node.list_size(); ++i) {
    const Node entry = node.element(i);
    AddedToken token{entry["content"].text(),   entry["id"].id(),          entry["single_word"].boolean(),
                     entry["lstrip"].boolean(), entry["rstrip"].boolean(), entry["normalized"].boolean(),
                     entry["special"].boolean()};
    if (token.content.empty()) continue;
    const std::string name = shortened(token.content);
    if (token.content.size() > kLongestAddedToken) entry.unsupported(fmt::format("'{}' is too long", name));
    if (!seen.insert(token.content).second) entry.corrupt(fmt::format("'{}' is there twice", name));
    // The reference numbers added tokens itself and only warns when the file says otherwise.
    const std::int64_t known = vocabulary.id_of(token.content);
    const std::size_t given = known >= 0 ? static_cast<std::size_t>(known) : next++;
    if (given != token.id) {
      entry["id"].corrupt(
          fmt::format("'{}' has the id {}, but the tokenizers library would number it {}", name, token.id, given));
    }
    if (known < 0 && given < vocabulary.size() && !vocabulary.token(given).empty()) {
      entry["id"].corrupt(fmt::format("'{}' has the id {} of '{}'", name, given, shortened(vocabulary.token(given))));
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

TokenizerFile read_tokenizer(const Json& json, const std::string& where) {
  const Node root(json, where);
  TokenizerFile file;
  file.where = where;
  if (const Node version = root["version"]; !version.is_null() && version.text() != "1.0") version.refuse("1.0");
  // The small parts first: a tokenizer of another kind is told by them, whatever its model looks like.
  if (!root["model"].json().is_object()) root["model"].corrupt("expected an object");
  if (root["model"]["type"].text() != "BPE") root["model"]["type"].refuse("BPE");
  file.nfc = reads_nfc(root["normalizer"]);
  file.patterns = read_pre_tokenizer(root["pre_tokenizer"]);
  if (root["decoder"].is_null()) root["decoder"].unsupported("null is not supported, expected ByteLevel");
  if (root["decoder"]["type"].text() != "ByteLevel") root["decoder"]["type"].refuse("ByteLevel");
  read_model(root["model"], file);
  file.added_tokens = read_added_tokens(root["added_tokens"], *file.vocabulary);
  return file;
}

bool is_there(const std::filesystem::path& path) {
  std::error_code error;  // one that hides whether it is there comes up again when it is read
  return std::filesystem::status(path, error).type() != std::filesystem::file_type::not_found;
}

/// A file that stands for a part of the missing tokenizer.json.
std::filesystem::path part(const std::filesystem::path& folder, const char* name) {
  if (is_there(folder / name)) return folder / name;
  throw Error(ErrorCode::kNotFound,
              fmt::format("{} has no {}; without a tokenizer.json it needs vocab.json, merges.txt and "
                          "tokenizer_config.json, add the file from the release",
                          folder.string(), name));
}

/// With the "#version" line, which a tokenizer.json may hold too.
Json lines_of_merges(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  Json lines = Json::array();
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    if (std::cmp_greater_equal(lines.size(), kIdLimit)) {
      throw Error(ErrorCode::kCorrupt, fmt::format("{} has more than {} lines", path.string(), kIdLimit));
    }
    lines.push_back(line);
  }
  return lines;
}

/// Adds what an object names as special under "eos_token" and the like: a text, an object with "content", or a list.
void collect_special(const Json& json, std::unordered_set<std::string>& special) {
  for (const auto& [key, value] : json.items()) {
    if (!key.ends_with("_token") && !key.ends_with("_special_tokens")) continue;
    for (const Json& token : value.is_array() ? value : Json::array({value})) {
      const Json content = token.is_object() ? token.value("content", Json()) : token;
      if (content.is_string()) special.insert(content.get<std::string>());
    }
  }
}

Json listed_added_tokens(const std::filesystem::path& folder, const Json& config) {
  Json tokens = Json::array();
  if (!is_there(folder / "added_tokens.json")) return tokens;
  std::unordered_set<std::string> special;
  collect_special(config, special);
  if (is_there(folder / "special_tokens_map.json")) {
    collect_special(read_json(folder / "special_tokens_map.json"), special);
  }
  const Json ids = read_json(folder / "added_tokens.json");
  for (const auto& [content, id] : ids.items()) {
    const bool is_special = special.empty() || special.contains(content);
    tokens.push_back({{"content", content},
                      {"id", id},
                      {"special", is_special},
                      {"normalized", !is_special},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false}});
  }
  return tokens;
}

Json described_added_tokens(const Node& decoder) {
  Json tokens = Json::array();
  for (const auto& [key, entry] : decoder.members()) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      decoder.corrupt(fmt::format("expected ids as keys, got '{}'", shortened(key)));
    }
    if (!entry.is_object()) decoder[key].corrupt("expected an object");
    tokens.push_back(entry);
    tokens.back()["id"] = id;
  }
  return tokens;
}

/// What transformers' Qwen2Converter makes of the files, in the form of a tokenizer.json.
Json compose_qwen2(const std::filesystem::path& folder) {
  const std::filesystem::path config_file = part(folder, "tokenizer_config.json");
  const Json json = read_json(config_file);
  const Node config(json, config_file.string());
  const Node type = config["tokenizer_class"];
  if (const std::string name = type.is_null() ? "none" : type.text();
      name != "Qwen2Tokenizer" && name != "Qwen2TokenizerFast") {
    type.unsupported(
        fmt::format("vocab.json and merges.txt of the class '{}' are not supported, expected Qwen2Tokenizer; "
                    "any other needs a tokenizer.json in the folder",
                    shortened(name)));
  }
  config["split_special_tokens"].expect_boolean(false, false);
  const bool prefix_space = config["add_prefix_space"].boolean_or(false);
  const Node decoder = config["added_tokens_decoder"];
  Json tokens = decoder.is_null() ? listed_added_tokens(folder, json) : described_added_tokens(decoder);
  // The tokenizers library numbers them in this order.
  std::sort(tokens.begin(), tokens.end(), [](const Json& a, const Json& b) { return a.at("id") < b.at("id"); });
  Json model = {{"type", "BPE"}};
  model["vocab"] = read_json(part(folder, "vocab.json"));
  model["merges"] = lines_of_merges(part(folder, "merges.txt"));
  Json split = {{"type", "Split"}, {"pattern", {{"Regex", kQwen2Pattern}}}, {"behavior", "Isolated"}};
  Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"use_regex", false}};
  Json whole = {{"normalizer", {{"type", "NFC"}}}, {"decoder", {{"type", "ByteLevel"}}}};
  whole["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {std::move(split), std::move(byte_level)}}};
  whole["added_tokens"] = std::move(tokens);
  whole["model"] = std::move(model);
  return whole;
}

}  // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  return read_tokenizer(read_json(path), path.string());
}

std::optional<TokenizerFile> read_tokenizer_folder(const std::filesystem::path& folder) {
  if (is_there(folder / "tokenizer.json")) return read_tokenizer_file(folder / "tokenizer.json");
  if (!is_there(folder / "vocab.json") && !is_there(folder / "merges.txt")) return std::nullopt;
  return read_tokenizer(compose_qwen2(folder), folder.string() + " (vocab.json, merges.txt and the added tokens)");
}

}  // namespace vlmzoo
