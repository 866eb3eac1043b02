#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llama_vision_config.hpp"
#include "vlmzoo/tokenizer.hpp"

namespace vlmzoo::llama_vision {

/// The added tokens that prompts are made of; those of turns are -1 in a base model. Error: kMismatch when the
/// tokenizer lacks one, when the image token is another one than config.json says, or when ids go beyond the embedding.
struct SpecialTokens {
  TokenId begin_of_text = -1, image = -1, start_header = -1, end_header = -1, end_of_turn = -1;
  static SpecialTokens find(const Tokenizer& tokenizer, const LlamaVisionConfig& config, const std::string& where);
};

/// Ids that end an answer where generation_config.json names none: <|end_of_text|>, <|eom_id|>, <|eot_id|>.
std::vector<TokenId> default_stop_ids(const Tokenizer& tokenizer);

/// Ids of one prompt, with one image token per `<image>` mark; pictures of a question without any mark come first. The
/// newline after a mark belongs to the neutral form and is dropped. Texts between control tokens are tokenized apart;
/// control tokens that a user typed stay text. Error: kMismatch when marks and pictures differ in number. Source:
/// Meta's llama-models, llama3/chat_format.py, encode_dialog_prompt (Instruct) and encode_content (base).
std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, const SpecialTokens& special,
                                   const LlamaVisionConfig& config, const std::string& question, std::size_t images);

/// Pictures [begin, end) of one prompt that a row of its text sees: the latest image token's, and those of its
/// neighbours directly before it. Source: create_vision_mask there; what is generated sees what the prompt's end does.
class VisibleImages {
 public:
  /// The next token of the prompt or answer.
  void step(bool image_token) {
    if (image_token) begin_ = after_image_ ? begin_ : end_;
    if (image_token) ++end_;
    after_image_ = image_token;
  }
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }

 private:
  std::int64_t begin_ = 0, end_ = 0;
  bool after_image_ = false;
};

}  // namespace vlmzoo::llama_vision
