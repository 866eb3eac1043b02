#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo {

enum class FinishReason { kStopToken, kStopString, kLength, kInterrupted };

struct Answer {
  std::vector<TokenId> ids;  ///< without the prompt; a stop token is included
  std::string text;          ///< without special tokens and without the stop string
  FinishReason finish = FinishReason::kLength;
};

/// Times of one generate() call, in seconds.
struct GenerationTimes {
  double vision = 0, prefill = 0, decode = 0;
  std::int64_t prompt_tokens = 0, decode_steps = 0;
};

/// Called with each new piece of complete UTF-8 text of answer `index`. Text that may begin a stop string is held back.
using OnText = std::function<void(std::size_t index, std::string_view piece)>;

/// Called once, before the first token is picked. `features` is null without pictures.
using OnPrefill = std::function<void(const ImageFeatures* features, const TextOutput& output)>;

/// Answers a batch of prompts of any lengths. In fp32 each prompt's answer is the same alone
/// or in a batch (other precisions round by batch): every prompt draws
/// its random numbers from a stream of its own that begins with `config.seed`. Order of the filters: repetition
/// penalty, temperature, top-k, top-p (as in transformers). Ctrl-C ends it with what there is. Errors: kUsage when
/// prompt + max_new_tokens exceed the context. With `max_new_tokens` 0 nothing runs, unless `on_prefill` waits for it.
VLMZOO_API std::vector<Answer> generate(const Model& model, const ModelInputs& inputs, const GenerationConfig& config,
                                        const OnText& on_text = {}, GenerationTimes* times = nullptr,
                                        const OnPrefill& on_prefill = {});

/// Picks the next token from fp32 logits [V]. `seen` are the ids of prompt and answer so far (for the penalty);
/// `uniform` is in [0, 1).
VLMZOO_API TokenId sample(const at::Tensor& logits, const GenerationConfig& config, std::span<const TokenId> seen,
                          double uniform);

}  // namespace vlmzoo
