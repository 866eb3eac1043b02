#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "added_tokens.hpp"
#include "bpe.hpp"
#include "pretokenize.hpp"

namespace vlmzoo {

/// What a `tokenizer.json` says, checked.
struct TokenizerFile {
  std::string where;                       // for messages
  std::unique_ptr<Vocabulary> vocabulary;  // without added tokens
  std::vector<BpeMerge> merges;
  bool ignore_merges = false;
  bool nfc = false;
  std::vector<Pattern> patterns;  // applied one after the other
  std::vector<AddedToken> added_tokens;
};

/// Errors: kNotFound, kCorrupt, kUnsupported.
TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

/// The same for a model folder (see Tokenizer::open); null when it holds no tokenizer.
std::optional<TokenizerFile> read_tokenizer_folder(const std::filesystem::path& folder);

}  // namespace vlmzoo
