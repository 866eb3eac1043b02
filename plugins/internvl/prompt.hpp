#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "internvl_config.hpp"
#include "vlmzoo/tokenizer.hpp"

namespace vlmzoo::internvl {

/// The added tokens that prompts are made of. Error: kMismatch when the tokenizer lacks one, or when the image token is
/// another one than config.json says.
struct SpecialTokens {
  TokenId image_context, turn_end, end_of_text;  ///< <IMG_CONTEXT>, <|im_end|>, <|endoftext|> (-1 when absent)
  static SpecialTokens find(const Tokenizer& tokenizer, const InternVlConfig& config, const std::string& where);
};

/// Ids of one prompt: template, question, and `tiles[i] · tokens_per_tile` image tokens where the i-th `<image>`
/// stands; pictures of a question without any mark come first. Control tokens that a user typed stay text, except <ref>
/// <box> <quad> and their ends. Error: kMismatch when marks and pictures differ in number. Source: OpenGVLab/InternVL,
/// InternVLChatModel.chat.
std::vector<TokenId> encode_prompt(const Tokenizer& tokenizer, const InternVlConfig& config,
                                   const std::string& question, std::span<const std::int64_t> tiles);

}  // namespace vlmzoo::internvl
