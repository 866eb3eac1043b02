#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

using TokenId = std::int64_t;

/// A piece of a prompt. In `template_text` added tokens are recognised; in user text they stay text, except those that
/// the adapter lists as usable.
struct PromptPiece {
  std::string text;
  bool user = false;
};

/// Byte-level BPE from a Hugging Face `tokenizer.json`, with the ids that the `tokenizers` library gives.
/// Supported: model BPE (`ignore_merges`; merges as "a b" or ["a", "b"]), pre-tokenizers ByteLevel and
/// Sequence[Split(Regex, Isolated), ByteLevel], normaliser NFC or none, added tokens (with `lstrip`, `rstrip`,
/// `normalized`, `single_word`), decoder ByteLevel. Anything else is kUnsupported naming the field. Immutable; const
/// methods may run concurrently.
class VLMZOO_API Tokenizer {
 public:
  /// Errors: kNotFound, kCorrupt, kUnsupported.
  explicit Tokenizer(const std::filesystem::path& tokenizer_json);

  /// The tokenizer of a model folder: its `tokenizer.json`, or else its `vocab.json` and `merges.txt` with the added
  /// tokens of `tokenizer_config.json` (or `added_tokens.json`), read as transformers turns a Qwen2Tokenizer into such
  /// a file; null when it has none of them. Errors: as above; kUnsupported for vocab.json and merges.txt of another
  /// tokenizer_class.
  static std::optional<Tokenizer> open(const std::filesystem::path& folder);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of `text`, where every added token found in it is taken as such. No template tokens are added. Error: kUsage
  /// when the text is not UTF-8.
  std::vector<TokenId> encode(std::string_view text) const;

  /// Ids of the concatenated pieces: template and user text meet *before* BPE, so they can merge across a boundary (the
  /// reference tokenizes the joined string). An added token that lies in, or reaches into, user text is taken only when
  /// its content is in `usable`.
  std::vector<TokenId> encode(std::span<const PromptPiece> pieces, std::span<const std::string> usable) const;

  /// Text of `ids`; ids of special added tokens are left out when `skip_special` is true. Bytes that are no UTF-8
  /// become U+FFFD, as in the reference. Error: kMismatch for an id outside the vocabulary.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  /// The raw bytes one id stands for ("" for a special token when `skip_special`).
  std::string bytes_of(TokenId id, bool skip_special = true) const;

  std::optional<TokenId> id_of(
      std::string_view token) const;  ///< added token, or vocabulary entry in byte-level spelling
  std::int64_t size() const;          ///< largest id + 1
  bool is_special(TokenId id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

/// Turns the ids of one answer into text piece by piece; an incomplete UTF-8 sequence is held back until it is
/// complete.
class VLMZOO_API TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  std::string push(TokenId id);  ///< text that is complete now
  std::string finish();          ///< what was held back, as U+FFFD

 private:
  const Tokenizer* tokenizer_;
  std::string held_;
};

}  // namespace vlmzoo
