#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "data/rows.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

/// The value of a key that may be missing or null. Throws BadRow when it is of another type.
std::optional<std::string> text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (!found->is_string()) throw BadRow{fmt::format("{} has to be a text", key)};
  return found->get<std::string>();
}

std::optional<std::int64_t> count_of(const Json& object) {
  const auto found = object.find("count");
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() > (std::uint64_t{1} << 62)) {
    throw BadRow{"count has to be a number from 0"};
  }
  return found->get<std::int64_t>();
}

/// A name, or the index of a class.
std::optional<std::string> label_of(const Json& object) {
  const auto found = object.find("label");
  if (found != object.end() && found->is_number_unsigned()) return found->dump();
  std::optional<std::string> label = text_of(object, "label");
  if (label && label->empty()) throw BadRow{"the label is empty"};
  return label;
}

std::string required(const Json& object, const char* key) {
  const std::optional<std::string> text = text_of(object, key);
  if (!text || text->empty()) throw BadRow{fmt::format("{} is missing", key)};
  return *text;
}

/// Fills in the first question and its answer; true when more of them follow.
bool read_conversation(const Json& object, Sample& sample) {
  const auto found = object.find("conversations");
  if (found == object.end() || !found->is_array() || found->size() < 2) {
    throw BadRow{R"(conversations has to be a list: [{"from": "human", "value": …}, {"from": "gpt", "value": …}])"};
  }
  for (std::size_t i = 0; i < found->size(); ++i) {
    const Json& turn = (*found)[i];
    if (!turn.is_object()) throw BadRow{fmt::format("conversations[{}] has to be an object", i)};
    const std::string from = required(turn, "from");
    const bool human = from == "human" || from == "user", known = human || from == "gpt" || from == "assistant";
    if (!known || human != (i % 2 == 0)) {
      throw BadRow{
          fmt::format("conversations[{}] is from '{}', expected {}", i, shown(from), i % 2 == 0 ? "human" : "gpt")};
    }
    const std::string value = required(turn, "value");
    if (i < 2) (human ? sample.question : sample.answer) = value;
  }
  return found->size() > 2;
}

void set_id(Row& row, const Json& object, const std::string& image, std::size_t line, SeenIds& seen) {
  const auto found = object.find("id");
  const bool number = found != object.end() && found->is_number_integer();
  const std::optional<std::string> own = number ? found->dump() : text_of(object, "id");
  row.sample.id = own.value_or(image);
  if (!own) {  // several questions about one picture are usual
    for (int repeat = 2; seen.contains(row.sample.id); ++repeat) row.sample.id = fmt::format("{}#{}", image, repeat);
  }
  const auto [first, fresh] = seen.try_emplace(row.sample.id, line);
  if (!fresh) throw BadRow{fmt::format("id {} is in line {} already", shown(row.sample.id), first->second)};
}

Row read_row(std::string_view text, std::size_t line, const fs::path& folder, SeenIds& seen, bool& more_turns) {
  Json object;
  try {
    object = parse_json(text, "");
  } catch (const Error& error) {
    throw BadRow{std::string(error.what()).substr(2)};  // behind ": "
  }
  if (!object.is_object()) throw BadRow{"expected a JSON object"};
  if (const auto image = object.find("image"); image != object.end() && image->is_array()) {
    throw BadRow{"image is a list; one picture in each row is supported"};
  }
  Row row;
  const std::string image = required(object, "image");
  row.sample.image = find_picture(folder, image);
  more_turns = read_conversation(object, row.sample) || more_turns;
  row.label = label_of(object);
  row.sample.count = count_of(object);
  if (const auto split = text_of(object, "split")) {
    row.sample.split = parse_split(*split);
    if (row.sample.split.empty())
      throw BadRow{fmt::format("split is '{}', expected train, val or test", shown(*split))};
  }
  set_id(row, object, image, line, seen);
  return row;
}

}  // namespace

Rows read_jsonl_rows(const fs::path& file) {
  const std::string where = file.string(), content = read_file(file, std::size_t{1} << 30);
  Rows result;
  SeenIds seen;
  bool more_turns = false;
  std::size_t line = 0;
  for (std::string_view rest = content; !rest.empty();) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view text = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    ++line;
    if (text.find_first_not_of(" \t\r") == text.npos) continue;
    const std::string at = fmt::format("{}:{}", where, line);
    try {
      result.good.push_back(read_row(text, line, file.parent_path(), seen, more_turns));
      result.good.back().where = at;
      result.has_splits = result.has_splits || !result.good.back().sample.split.empty();
    } catch (const BadRow& bad) {
      result.faults.push_back(fmt::format("{}: {}", at, bad.why));
    }
  }
  if (result.has_splits) {
    std::erase_if(result.good, [&](const Row& row) {
      if (row.sample.split.empty()) result.faults.push_back(row.where + ": split is missing, other rows have one");
      return row.sample.split.empty();
    });
  }
  if (line == 0) throw Error(ErrorCode::kCorrupt, where + ": the file is empty, expected a JSON object in each line");
  if (more_turns) warn(fmt::format("{}: of conversations with several turns only the first is used", where));
  return result;
}

}  // namespace vlmzoo::app
