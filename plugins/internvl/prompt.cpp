#include "prompt.hpp"

#include <fmt/format.h>

#include "vlmzoo/error.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::internvl {
namespace {

const std::vector<std::string> kUsable = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"};

std::string image_text(std::int64_t tokens) {
  std::string text = "<img>";
  for (std::int64_t i = 0; i < tokens; ++i) text += "<IMG_CONTEXT>";
  return text + "</img>";
}

}  // namespace

SpecialTokens SpecialTokens::find(const Tokenizer& tokenizer, const InternVlConfig& config, const std::string& where) {
  std::string missing;
  for (const char* token : {"<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>"}) {
    if (!tokenizer.id_of(token)) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", token);
  }
  if (!missing.empty()) {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format("{} has no token {}; it is not the tokenizer of an InternVL checkpoint, take the one from the "
                    "model's own folder",
                    where, missing));
  }
  const SpecialTokens tokens = {*tokenizer.id_of("<IMG_CONTEXT>"), *tokenizer.id_of("<|im_end|>"),
                                tokenizer.id_of("<|endoftext|>").value_or(-1)};
  if (config.image_token_id >= 0 && config.image_token_id != tokens.image_context) {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format(
            "config.json says image_token_id {}, but <IMG_CONTEXT> is {} in {}; the files are of different models",
            config.image_token_id, tokens.image_context, where));
  }
  if (tokenizer.size() > config.text.vocab_size) {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format("{} has ids up to {}, but the model's vocabulary has {} rows; the files are of different models",
                    where, tokenizer.size() - 1, config.text.vocab_size));
  }
  return tokens;
}

std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, const InternVlConfig& config,
                                   const std::string& question, std::span<const std::int64_t> tiles) {
  const std::vector<std::string> texts = split_at_marks(question, tiles.size());
  std::vector<PromptPiece> pieces;
  if (!config.prompt.system.empty())
    pieces.push_back({"<|im_start|>system\n" + config.prompt.system + config.prompt.turn_end});
  pieces.push_back({"<|im_start|>user\n"});
  // Pictures of a question without marks come first, each on a line of its own.
  const bool marked = texts.size() > 1;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    if (marked) pieces.push_back({texts[i], /*user=*/true});
    pieces.push_back({image_text(tiles[i] * config.tokens_per_tile) + (marked ? "" : "\n")});
  }
  pieces.push_back({texts.back(), /*user=*/true});
  pieces.push_back({config.prompt.turn_end + "<|im_start|>assistant\n"});
  return tokenizer.encode(pieces, kUsable);
}

}  // namespace vlmzoo::internvl
