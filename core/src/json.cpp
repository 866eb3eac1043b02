#include "vlmzoo/json.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {
namespace {

constexpr std::size_t kDeepest = 64;

/// Walks over the text and leaves behind how far the parser has come, which nlohmann tells only for syntax errors.
class Cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor(const char* at, std::size_t* read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  Cursor& operator++() {
    ++at_;
    ++*read_;
    return *this;
  }
  Cursor operator++(int) {
    Cursor before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  std::size_t* read_;
};

/// nlohmann's SAX events into a value, with the two checks that its own parser lacks.
class Builder {
 public:
  Builder(const std::string& where, const std::size_t& read) : where_(where), read_(read) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // JSON text has none
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    auto [slot, fresh] = stack_.back()->get_ref<Json::object_t&>().try_emplace(name);
    if (!fresh) fail(read_, fmt::format("key '{}' appears twice in one object", shortened(name)));
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error …": the part that says why.
    std::string_view why = error.what();
    if (const auto bracket = why.find("] "); bracket != why.npos) why.remove_prefix(bracket + 2);
    if (why.starts_with("parse error at ")) {
      if (const auto colon = why.find(": "); colon != why.npos) why.remove_prefix(colon + 2);
    }
    fail(position, shortened(why, 200));
  }

  Json take() { return std::move(root_); }

 private:
  [[noreturn]] void fail(std::size_t position, const std::string& why) const {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: not valid JSON at byte {}: {}", where_, position, why));
  }

  Json* place(Json&& value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (stack_.back()->is_object()) {
      *slot_ = std::move(value);
      return slot_;
    }
    auto& array = stack_.back()->get_ref<Json::array_t&>();
    array.push_back(std::move(value));
    return &array.back();
  }

  bool add(Json&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& value) {
    if (stack_.size() == kDeepest) fail(read_, fmt::format("nested more than {} levels deep", kDeepest));
    stack_.push_back(place(std::move(value)));
    return true;
  }

  bool close() {
    stack_.pop_back();
    return true;
  }

  const std::string& where_;
  const std::size_t& read_;
  Json root_;
  std::vector<Json*> stack_;  // an element's address holds while it is open: its parent grows only after it closes
  Json* slot_ = nullptr;      // where the value of the last key goes
};

std::string described(const Json& value) {
  switch (value.type()) {
    case Json::value_t::string:
      return fmt::format("the text '{}'", shortened(value.get_ref<const std::string&>(), 60));
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    default:
      return value.dump();
  }
}

[[noreturn]] void wrong_value(const std::string& at, const std::string& expected, const Json& got) {
  throw Error(ErrorCode::kConfig, fmt::format("{}: expected {}, got {}", at, expected, described(got)));
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  std::size_t read = 0;
  Builder builder(where, read);
  Json::sax_parse(Cursor(text.data(), &read), Cursor(text.data() + text.size(), &read), &builder);
  return builder.take();
}

Json read_json(const std::filesystem::path& path, std::size_t limit) {
  const std::string where = path.string();
  const std::string text = read_file(path, limit);
  if (text.empty()) throw Error(ErrorCode::kCorrupt, where + ": the file is empty, expected a JSON object");
  Json value = parse_json(text, where);
  if (!value.is_object()) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: expected a JSON object, got {}", where, described(value)));
  }
  return value;
}

JsonView::JsonView(const Json& object, std::string where, std::string path)
    : object_(&object), where_(std::move(where)), path_(std::move(path)) {}

bool JsonView::has(const std::string& key) const {
  const auto found = object_->find(key);
  return found != object_->end() && !found->is_null();
}

std::string JsonView::at(const std::string& key) const {
  return where_ + ": " + (path_.empty() ? key : path_ + "." + key);
}

const Json& JsonView::get(const std::string& key, const char* expected) const {
  if (!has(key)) throw Error(ErrorCode::kConfig, fmt::format("{} is missing, expected {}", at(key), expected));
  return *object_->find(key);
}

JsonView JsonView::child(const std::string& key) const {
  const Json& value = get(key, "an object");
  if (!value.is_object()) wrong_value(at(key), "an object", value);
  return {value, where_, path_.empty() ? key : path_ + "." + key};
}

std::int64_t JsonView::integer(const std::string& key, std::int64_t low, std::int64_t high) const {
  const Json& value = get(key, "an integer");
  // A number above INT64_MAX is kept unsigned by the parser.
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || std::in_range<std::int64_t>(value.get<std::uint64_t>()));
  if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
    wrong_value(at(key), fmt::format("an integer from {} to {}", low, high), value);
  }
  return value.get<std::int64_t>();
}

double JsonView::number(const std::string& key) const {
  const Json& value = get(key, "a number");
  if (!value.is_number()) wrong_value(at(key), "a number", value);
  return value.get<double>();
}

std::string JsonView::text(const std::string& key) const {
  const Json& value = get(key, "a text");
  if (!value.is_string()) wrong_value(at(key), "a text", value);
  return value.get<std::string>();
}

bool JsonView::boolean(const std::string& key) const {
  const Json& value = get(key, "true or false");
  if (!value.is_boolean()) wrong_value(at(key), "true or false", value);
  return value.get<bool>();
}

std::int64_t JsonView::integer_or(const std::string& key, std::int64_t low, std::int64_t high,
                                  std::int64_t otherwise) const {
  return has(key) ? integer(key, low, high) : otherwise;
}

double JsonView::number_or(const std::string& key, double otherwise) const {
  return has(key) ? number(key) : otherwise;
}

std::string JsonView::text_or(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

bool JsonView::boolean_or(const std::string& key, bool otherwise) const { return has(key) ? boolean(key) : otherwise; }

}  // namespace vlmzoo
