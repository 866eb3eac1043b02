#include "yaml_tree.hpp"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {
namespace {

constexpr std::size_t kMaxDepth = 32;
constexpr const char* kTooDeep = "nested deeper than 32 levels";

std::string place(const YamlSource& source, int line) {
  return source.has_lines && line > 0 ? fmt::format("{}:{}", source.name, line) : source.name;
}

[[noreturn]] void fail_at(const YamlSource& source, int line, std::string_view message) {
  throw Error(ErrorCode::kConfig, fmt::format("{}: {}", place(source, line), message));
}

// Builds the tree straight from the parser's events, so that hostile input is refused while it is read: an alias is
// never expanded and the depth never grows.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::shared_ptr<const YamlSource> source) : source_(std::move(source)) {}

  YamlNode take() {
    if (bad_key_line_) fail_at(*source_, *bad_key_line_, "a key has to be text, not null, a list or a map");
    return std::move(root_);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) fail_at(*source_, line_of(mark), "a second YAML document begins here; only one is read");
  }
  void OnDocumentEnd() override {}
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark); }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse_anchor(mark); }

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (bad_key_line_) return;
    if (wants_key()) return bad_key(mark);
    attach(make(YamlNode::Kind::kNull, mark));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    refuse_tag(mark, tag);
    if (value.find('\0') != std::string::npos) fail_at(*source_, line_of(mark), "text can't hold a zero byte");
    if (bad_key_line_) return;
    if (wants_key()) return open_key(mark, value);
    YamlNode node = make(YamlNode::Kind::kScalar, mark);
    node.text = value;
    node.quoted = tag == "!";
    attach(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kList, mark, tag);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::kMap, mark, tag);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    std::map<std::string, int> lines;                // of the keys so far
    std::optional<std::pair<std::string, int>> key;  // read, its value not yet
  };

  static int line_of(const YAML::Mark& mark) { return mark.line + 1; }

  bool wants_key() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::kMap && !open_.back().key;
  }

  YamlNode make(YamlNode::Kind kind, const YAML::Mark& mark) const {
    YamlNode node;
    node.kind = kind;
    node.line = line_of(mark);
    node.source = source_;
    return node;
  }

  void open_key(const YAML::Mark& mark, const std::string& key) {
    Frame& frame = open_.back();
    const auto [first, fresh] = frame.lines.emplace(key, line_of(mark));
    if (!fresh) {
      std::string path;
      for (const Frame& outer : open_) {
        if (outer.key) path += outer.key->first + ".";
      }
      fail_at(*source_, line_of(mark),
              fmt::format("duplicate key '{}' (first on line {})", shortened(path + key), first->second));
    }
    frame.key = {key, line_of(mark)};
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag) {
    if (bad_key_line_) return;
    refuse_tag(mark, tag);
    if (wants_key()) return bad_key(mark);
    if (open_.size() >= kMaxDepth) fail_at(*source_, line_of(mark), kTooDeep);
    open_.push_back({make(kind, mark), {}, std::nullopt});
  }

  void close() {
    if (bad_key_line_) return;
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    attach(std::move(node));
  }

  void attach(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& parent = open_.back();
    if (parent.key) {
      node.line = parent.key->second;
      parent.node.keys.push_back(std::move(parent.key->first));
      parent.key.reset();
    }
    parent.node.items.push_back(std::move(node));
  }

  [[noreturn]] void refuse_anchor(const YAML::Mark& mark) const {
    fail_at(*source_, line_of(mark), "anchors (&name) and aliases (*name) are not read; write the value out");
  }
  // Kept for the end, and the events up to there ignored: to the parser, an unclosed bracket is such a key at first and
  // an error of syntax later.
  void bad_key(const YAML::Mark& mark) { bad_key_line_ = line_of(mark); }

  // The parser marks plain scalars and collections "?" and quoted scalars "!".
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;
    fail_at(*source_, line_of(mark), fmt::format("YAML tags are not read: '{}'", shortened(tag)));
  }

  std::shared_ptr<const YamlSource> source_;
  std::vector<Frame> open_;
  YamlNode root_;
  std::optional<int> bad_key_line_;
  int documents_ = 0;
};

// The parser takes 0x04 for the end of the file, re-decodes UTF-16, and gives tabs an unhelpful message.
void check_characters(std::string_view text, const YamlSource& source) {
  for (int line = 1; !text.empty(); ++line) {
    const std::string_view content = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(content.size() + 1, text.size()));
    if (!is_utf8(content)) fail_at(source, line, "the text is not UTF-8");
    for (const char c : content) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 && c != '\t' && c != '\r') {
        fail_at(source, line, fmt::format("control character 0x{:02x}: this is not a text file", byte));
      }
    }
    if (content.starts_with('\t') && content.find_first_not_of(" \t\r") != std::string_view::npos) {
      fail_at(source, line, "the line begins with a tab; YAML is indented with spaces");
    }
  }
}

}  // namespace

std::string YamlNode::where() const { return place(*source, line); }

std::string YamlNode::shown() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  return fmt::format("{}'{}'", quoted ? "the text " : "", shortened(text));
}

void YamlNode::fail(std::string_view message) const { fail_at(*source, line, message); }

YamlNode parse_yaml(std::string_view text, std::shared_ptr<const YamlSource> source) {
  check_characters(text, *source);
  TreeBuilder builder(source);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::DeepRecursion& error) {  // the parser's own limit, which lies far above ours
    fail_at(*source, error.mark.line + 1, kTooDeep);
  } catch (const YAML::Exception& error) {
    fail_at(*source, error.mark.line + 1,
            fmt::format("not valid YAML: {} (column {})", shortened(error.msg), error.mark.column + 1));
  }
  YamlNode root = builder.take();
  if (!root.source) {
    root.source = std::move(source);
    root.line = 1;
  }
  return root;
}

}  // namespace vlmzoo
