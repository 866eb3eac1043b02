#include "vlmzoo/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>
#include <utility>

#include "added_tokens.hpp"
#include "bpe.hpp"
#include "byte_level.hpp"
#include "normalize.hpp"
#include "pretokenize.hpp"
#include "shortened.hpp"
#include "tokenizer_json.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {
namespace {

std::array<std::uint32_t, 256> byte_ids(const Vocabulary& vocabulary, const std::string& where) {
  std::array<std::uint32_t, 256> ids{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::int64_t id = vocabulary.id_of(spelled_byte(static_cast<unsigned char>(byte)));
    // Bytes that UTF-8 text never holds may be missing. Of others the reference drops the text without a word.
    const bool in_text = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
    if (id < 0 && in_text) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: model.vocab has no token for the byte {:#04x}, expected all of them", where, byte));
    }
    ids[byte] = static_cast<std::uint32_t>(std::max<std::int64_t>(id, 0));
  }
  return ids;
}

std::string normalized_content(const AddedToken& token, bool nfc) {
  std::string no_marks;
  return token.normalized && nfc ? to_nfc(token.content, no_marks) : token.content;
}

AddedTokenFinder finder(const TokenizerFile& file, bool normalized) {
  std::vector<AddedTokenFinder::Entry> entries;
  std::vector<std::string> patterns;
  for (const AddedToken& token : file.added_tokens) {
    if (token.normalized != normalized) continue;
    entries.push_back({normalized_content(token, file.nfc), token});
    patterns.push_back(entries.back().pattern);
  }
  std::sort(patterns.begin(), patterns.end());
  if (const auto twice = std::adjacent_find(patterns.begin(), patterns.end()); twice != patterns.end()) {
    throw Error(ErrorCode::kCorrupt,
                fmt::format("{}: added_tokens: two of them are '{}' when normalised", file.where, shortened(*twice)));
  }
  return AddedTokenFinder(std::move(entries));
}

}  // namespace

struct Tokenizer::Impl {
  struct Entry {
    std::string text;  // "": no such id
    bool special = false;
  };

  explicit Impl(TokenizerFile file)
      : verbatim(finder(file, false)),
        normalized(finder(file, true)),
        vocabulary(std::move(file.vocabulary)),
        patterns(std::move(file.patterns)),
        nfc(file.nfc),
        bpe(*vocabulary, byte_ids(*vocabulary, file.where), file.merges, file.ignore_merges) {
    for (const AddedToken& token : file.added_tokens) {
      added_ids.emplace(token.content, token.id);
      // Decoding gives the form that was looked for in the text, as the reference does.
      added.emplace(token.id, Entry{normalized_content(token, nfc), token.special});
      size = std::max(size, std::size_t{token.id} + 1);
    }
    size = std::max(size, vocabulary->size());
  }

  /// Entry of an id in the file. Error: kMismatch.
  std::pair<std::string_view, bool> entry(TokenId id) const {
    if (id >= 0 && std::cmp_less(id, size)) {
      const auto at = static_cast<std::uint32_t>(id);
      if (const auto found = added.find(at); found != added.end()) return {found->second.text, found->second.special};
      if (at < vocabulary->size() && !vocabulary->token(at).empty()) return {vocabulary->token(at), false};
    }
    throw Error(ErrorCode::kMismatch, fmt::format("token id {} is not in the vocabulary of {} ids", id, size));
  }

  void append(TokenId id, bool skip_special, std::string& out) const {
    const auto [text, special] = entry(id);
    if (!special || !skip_special) append_bytes_of(text, out);
  }

  void encode_words(std::string_view text, Bpe::Scratch& scratch, std::vector<TokenId>& ids) const {
    std::vector<std::string_view> words{text}, pieces;
    for (const Pattern& pattern : patterns) {
      pieces.clear();
      for (const std::string_view word : words) pattern.split(word, pieces);
      words.swap(pieces);
    }
    for (const std::string_view word : words) bpe.encode(word, scratch, ids);
  }

  /// `marks` is empty or has one flag per byte: 1 for user text.
  std::vector<TokenId> encode(std::string_view text, std::string_view marks, std::span<const TokenId> usable) const {
    if (text.size() > std::size_t{std::numeric_limits<std::int32_t>::max()} / 4) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("the text is too long: {} bytes, expected at most 512 MiB", text.size()));
    }
    if (!is_utf8(text)) throw Error(ErrorCode::kUsage, "the text is not valid UTF-8");
    std::vector<TokenId> ids;
    Bpe::Scratch scratch;
    for (const TextPart& part : verbatim.cut(text, marks, usable)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      const auto begin = static_cast<std::size_t>(part.text.data() - text.data());
      std::string part_marks(marks.empty() ? marks : marks.substr(begin, part.text.size()));
      std::string nfc_text;
      if (nfc) nfc_text = to_nfc(part.text, part_marks);
      for (const TextPart& inner : normalized.cut(nfc ? nfc_text : part.text, part_marks, usable)) {
        if (inner.id >= 0) {
          ids.push_back(inner.id);
        } else {
          encode_words(inner.text, scratch, ids);
        }
      }
    }
    return ids;
  }

  AddedTokenFinder verbatim, normalized;
  std::unique_ptr<Vocabulary> vocabulary;
  std::vector<Pattern> patterns;
  bool nfc;
  Bpe bpe;
  std::unordered_map<std::uint32_t, Entry> added;
  std::unordered_map<std::string, std::uint32_t> added_ids;
  std::size_t size = 0;
};

Tokenizer::Tokenizer(const std::filesystem::path& tokenizer_json)
    : impl_(std::make_unique<Impl>(read_tokenizer_file(tokenizer_json))) {}
Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::optional<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  std::optional<TokenizerFile> file = read_tokenizer_folder(folder);
  if (!file) return std::nullopt;
  return Tokenizer(std::make_unique<Impl>(std::move(*file)));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const { return impl_->encode(text, {}, {}); }

std::vector<TokenId> Tokenizer::encode(std::span<const PromptPiece> pieces, std::span<const std::string> usable) const {
  std::string text, marks;
  for (const PromptPiece& piece : pieces) {
    text += piece.text;
    marks.append(piece.text.size(), piece.user ? '\1' : '\0');
  }
  std::vector<TokenId> usable_ids;
  for (const std::string& content : usable) {
    if (const auto found = impl_->added_ids.find(content); found != impl_->added_ids.end()) {
      usable_ids.push_back(found->second);
    }
  }
  return impl_->encode(text, marks, usable_ids);
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string bytes, text;
  for (const TokenId id : ids) impl_->append(id, skip_special, bytes);
  text.reserve(bytes.size());
  append_lossy(bytes, /*final=*/true, text);
  return text;
}

std::string Tokenizer::bytes_of(TokenId id, bool skip_special) const {
  std::string bytes;
  impl_->append(id, skip_special, bytes);
  return bytes;
}

std::optional<TokenId> Tokenizer::id_of(std::string_view token) const {
  if (const auto found = impl_->added_ids.find(std::string(token)); found != impl_->added_ids.end()) {
    return found->second;
  }
  const std::int64_t id = impl_->vocabulary->id_of(token);
  return id < 0 ? std::nullopt : std::optional<TokenId>(id);
}

std::int64_t Tokenizer::size() const { return static_cast<std::int64_t>(impl_->size); }

bool Tokenizer::is_special(TokenId id) const { return impl_->entry(id).second; }

std::string TextStream::push(TokenId id) {
  held_ += tokenizer_->bytes_of(id);
  std::string text;
  held_.erase(0, append_lossy(held_, /*final=*/false, text));
  return text;
}

std::string TextStream::finish() {
  std::string text;
  append_lossy(held_, /*final=*/true, text);
  held_.clear();
  return text;
}

}  // namespace vlmzoo
