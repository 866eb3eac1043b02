#include "prompt.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <string_view>

#include "vlmzoo/error.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::llama_vision {
namespace {

/// Appends pieces that are tokenized one by one, so that nothing merges across them.
class PromptWriter {
 public:
  PromptWriter(const Tokenizer& tokenizer, const SpecialTokens& special) : tokenizer_(tokenizer), special_(special) {
    ids_.push_back(special.begin_of_text);
  }

  void token(TokenId id) { ids_.push_back(id); }

  void text(const std::string& text) {
    if (text.empty()) return;
    const PromptPiece piece = {text, /*user=*/true};
    const std::vector<TokenId> ids = tokenizer_.encode({&piece, 1}, {});
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

  void header(const std::string& role) {
    token(special_.start_header);
    text(role);
    token(special_.end_header);
    text("\n\n");
  }

  std::vector<TokenId> take() { return std::move(ids_); }

 private:
  const Tokenizer& tokenizer_;
  const SpecialTokens& special_;
  std::vector<TokenId> ids_;
};

void write_question(PromptWriter& prompt, TokenId image_token, const std::string& question, std::size_t images) {
  const std::vector<std::string> texts = split_at_marks(question, images);
  if (texts.size() == 1) {
    for (std::size_t i = 0; i < images; ++i) prompt.token(image_token);
    prompt.text(question);
    return;
  }
  prompt.text(texts.front());
  for (std::size_t i = 1; i < texts.size(); ++i) {
    prompt.token(image_token);
    prompt.text(texts[i].starts_with('\n') ? texts[i].substr(1) : texts[i]);
  }
}

}  // namespace

SpecialTokens SpecialTokens::find(const Tokenizer& tokenizer, const LlamaVisionConfig& config,
                                  const std::string& where) {
  std::vector<std::string> missing;
  const auto id_of = [&](const char* token) {
    const std::optional<TokenId> id = tokenizer.id_of(token);
    if (!id) missing.emplace_back(token);
    return id.value_or(-1);
  };
  SpecialTokens tokens;
  tokens.begin_of_text = id_of("<|begin_of_text|>");
  tokens.image = id_of("<|image|>");
  if (config.instruct) {
    tokens.start_header = id_of("<|start_header_id|>");
    tokens.end_header = id_of("<|end_header_id|>");
    tokens.end_of_turn = id_of("<|eot_id|>");
  }
  if (!missing.empty()) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("{} has no token {}; it is not the tokenizer of a Llama-3.2-Vision checkpoint, take the "
                            "one from the model's own folder",
                            where, fmt::join(missing, ", ")));
  }
  if (tokens.image != config.image_token_id) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("config.json says image_token_index {}, but <|image|> is {} in {}; the files are of "
                            "different models",
                            config.image_token_id, tokens.image, where));
  }
  if (const std::int64_t rows = config.text.vocab_size + kExtraEmbeddings; tokenizer.size() > rows) {
    throw Error(ErrorCode::kMismatch, fmt::format("{} has ids up to {}, but the model's embedding has {} rows; the "
                                                  "files are of different models",
                                                  where, tokenizer.size() - 1, rows));
  }
  return tokens;
}

std::vector<TokenId> default_stop_ids(const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (const char* token : {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"}) {
    if (const std::optional<TokenId> id = tokenizer.id_of(token)) ids.push_back(*id);
  }
  return ids;
}

std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, const SpecialTokens& special,
                                   const LlamaVisionConfig& config, const std::string& question, std::size_t images) {
  PromptWriter prompt(tokenizer, special);
  if (!config.instruct) {
    write_question(prompt, special.image, question, images);
    return prompt.take();
  }
  if (!config.system.empty()) {
    prompt.header("system");
    prompt.text(config.system);
    prompt.token(special.end_of_turn);
  }
  prompt.header("user");
  write_question(prompt, special.image, question, images);
  prompt.token(special.end_of_turn);
  prompt.header("assistant");
  return prompt.take();
}

}  // namespace vlmzoo::llama_vision
