#include "prompt.hpp"

#include <fmt/format.h>

#include "vlmzoo/error.hpp"

namespace vlmzoo::internvl {
namespace {

constexpr std::string_view kMark = "<image>";
const std::vector<std::string> kUsable = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"};

std::size_t count_marks(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at + kMark.size()))
    ++count;
  return count;
}

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
  const std::size_t marks = count_marks(question);
  if (marks != 0 && marks != tiles.size()) {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format("the prompt has {} <image> mark{}, and there {} {} picture{}; give one mark per picture, or none",
                    marks, marks == 1 ? "" : "s", tiles.size() == 1 ? "is" : "are", tiles.size(),
                    tiles.size() == 1 ? "" : "s"));
  }
  std::vector<PromptPiece> pieces;
  if (!config.prompt.system.empty())
    pieces.push_back({"<|im_start|>system\n" + config.prompt.system + config.prompt.turn_end});
  pieces.push_back({"<|im_start|>user\n"});
  if (marks == 0) {
    for (const std::int64_t count : tiles) pieces.push_back({image_text(count * config.tokens_per_tile) + "\n"});
    pieces.push_back({question, /*user=*/true});
  } else {
    std::size_t from = 0;
    for (const std::int64_t count : tiles) {
      const std::size_t at = question.find(kMark, from);
      pieces.push_back({question.substr(from, at - from), /*user=*/true});
      pieces.push_back({image_text(count * config.tokens_per_tile)});
      from = at + kMark.size();
    }
    pieces.push_back({question.substr(from), /*user=*/true});
  }
  pieces.push_back({config.prompt.turn_end + "<|im_start|>assistant\n"});
  return tokenizer.encode(pieces, kUsable);
}

}  // namespace vlmzoo::internvl
