#include "vlmzoo/generation.hpp"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"

namespace vlmzoo {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Number `step` of the stream of `seed`, in [0, 1).
double uniform(std::int64_t seed, std::int64_t step) {
  std::uint64_t z = static_cast<std::uint64_t>(seed) * 0xD1342543DE82EF95ULL +
                    static_cast<std::uint64_t>(step + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

/// One answer as it grows: ids, the text that is complete, what of it was handed out.
class Writer {
 public:
  Writer(const Tokenizer* tokenizer, const GenerationConfig& config, std::vector<TokenId> prompt)
      : seen_(std::move(prompt)), penalized_(config.repetition_penalty != 1.0) {
    if (tokenizer != nullptr) {
      stream_.emplace(*tokenizer);
      vocabulary_ = tokenizer->size();
    }
    for (const std::string& stop : config.stop) {
      if (stop.empty()) continue;
      stops_.push_back(stop);
      longest_ = std::max(longest_, stop.size());
    }
  }

  /// Takes a token; returns the text that may be shown now.
  std::string push(TokenId id, std::span<const TokenId> stop_ids) {
    answer_.ids.push_back(id);
    if (penalized_) seen_.push_back(id);
    if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) return end(FinishReason::kStopToken);
    // Rows that only fill up the embedding have no text, as in the reference.
    if (stream_ && id < vocabulary_) grow(stream_->push(id));
    return done_ ? show(answer_.text.size()) : show(answer_.text.size() - held_back());
  }

  std::string end(FinishReason reason) {
    if (done_) return "";
    if (stream_) grow(stream_->finish());
    if (!done_) answer_.finish = reason;
    done_ = true;
    return show(answer_.text.size());
  }

  bool done() const { return done_; }
  std::span<const TokenId> seen() const { return seen_; }
  Answer take() { return std::move(answer_); }

 private:
  void grow(const std::string& piece) {
    const std::size_t from = answer_.text.size() - std::min(answer_.text.size(), longest_);
    answer_.text += piece;
    std::size_t first = std::string::npos;
    for (const std::string& stop : stops_) first = std::min(first, answer_.text.find(stop, from));
    if (first == std::string::npos) return;
    answer_.text.resize(first);
    answer_.finish = FinishReason::kStopString;
    done_ = true;
  }

  /// Length of the longest end of the text that a stop string begins with.
  std::size_t held_back() const {
    std::size_t held = 0;
    for (const std::string& stop : stops_) {
      for (std::size_t n = std::min(stop.size() - 1, answer_.text.size()); n > held; --n) {
        if (answer_.text.ends_with(std::string_view(stop).substr(0, n))) held = n;
      }
    }
    return held;
  }

  std::string show(std::size_t end) {
    if (end <= shown_) return "";
    std::string piece = answer_.text.substr(shown_, end - shown_);
    shown_ = end;
    return piece;
  }

  Answer answer_;
  std::optional<TextStream> stream_;
  std::vector<std::string> stops_;
  std::vector<TokenId> seen_;
  TokenId vocabulary_ = 0;
  std::size_t longest_ = 0, shown_ = 0;
  bool penalized_ = false, done_ = false;
};

std::vector<std::vector<TokenId>> prompts_of(const ModelInputs& inputs) {
  if (!inputs.input_ids.defined() || inputs.input_ids.dim() != 2 ||
      (inputs.attention_mask.defined() && inputs.attention_mask.sizes() != inputs.input_ids.sizes())) {
    throw Error(ErrorCode::kMismatch,
                "generate() needs input_ids [B, L] and an attention_mask of the same shape or none");
  }
  const at::Tensor ids = inputs.input_ids.cpu().contiguous();
  const at::Tensor mask =
      inputs.attention_mask.defined() ? inputs.attention_mask.cpu().to(at::kBool).contiguous() : at::Tensor();
  std::vector<std::vector<TokenId>> prompts(static_cast<std::size_t>(ids.size(0)));
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    if (mask.defined() && !mask.const_data_ptr<bool>()[i]) continue;
    prompts[static_cast<std::size_t>(i / ids.size(1))].push_back(ids.const_data_ptr<std::int64_t>()[i]);
  }
  return prompts;
}

/// The answers of one batch in the making.
class Batch {
 public:
  Batch(const Model& model, const ModelInputs& inputs, const GenerationConfig& config, const OnText& on_text)
      : model_(model), config_(config), on_text_(on_text) {
    for (std::vector<TokenId>& prompt : prompts_of(inputs)) {
      longest_ = std::max(longest_, static_cast<std::int64_t>(prompt.size()));
      tokens_ += static_cast<std::int64_t>(prompt.size());
      writers_.emplace_back(model.tokenizer(), config, std::move(prompt));
    }
  }

  std::int64_t longest() const { return longest_; }
  std::int64_t tokens() const { return tokens_; }
  bool done() const {
    return std::all_of(writers_.begin(), writers_.end(), [](const Writer& writer) { return writer.done(); });
  }

  /// Picks the token number `step` of every answer that goes on, from logits [B, 1, V], into `next`.
  void pick(const at::Tensor& logits, std::int64_t step, ModelInputs& next) {
    for (std::size_t b = 0; b < writers_.size(); ++b) {
      Writer& writer = writers_[b];
      if (writer.done()) continue;
      const auto row = static_cast<std::int64_t>(b);
      const TokenId id =
          sample(logits.select(0, row).select(0, 0), config_, writer.seen(), uniform(config_.seed, step));
      emit(b, writer.push(id, model_.info().stop_ids));
      if (!writer.done() && step + 1 == config_.max_new_tokens) emit(b, writer.end(FinishReason::kLength));
      next.input_ids.select(0, row).fill_(id);
      next.attention_mask.select(0, row).fill_(!writer.done());
    }
  }

  void end(FinishReason reason) {
    for (std::size_t b = 0; b < writers_.size(); ++b) emit(b, writers_[b].end(reason));
  }

  std::vector<Answer> take() {
    std::vector<Answer> answers;
    for (Writer& writer : writers_) answers.push_back(writer.take());
    return answers;
  }

 private:
  void emit(std::size_t index, const std::string& piece) const {
    if (on_text_ && !piece.empty()) on_text_(index, piece);
  }

  const Model& model_;
  const GenerationConfig& config_;
  const OnText& on_text_;
  std::vector<Writer> writers_;
  std::int64_t longest_ = 0, tokens_ = 0;
};

void check_length(const Model& model, std::int64_t prompt, std::int64_t max_new_tokens) {
  const std::int64_t context = model.info().context_length;
  if (max_new_tokens < 0)
    throw Error(ErrorCode::kUsage, fmt::format("max_new_tokens is {}; give 0 or more", max_new_tokens));
  if (max_new_tokens > context - prompt) {
    throw Error(
        ErrorCode::kUsage,
        fmt::format("the prompt has {} tokens and max_new_tokens is {}, together more than the model's context of {}; "
                    "shorten the prompt, or lower max_new_tokens or model.max_tiles",
                    prompt, max_new_tokens, context));
  }
}

}  // namespace

std::vector<Answer> generate(const Model& model, const ModelInputs& inputs, const GenerationConfig& config,
                             const OnText& on_text, GenerationTimes* times, const OnPrefill& on_prefill) {
  const c10::AutoGradMode no_grad(false);
  Batch batch(model, inputs, config, on_text);
  check_length(model, batch.longest(), config.max_new_tokens);
  GenerationTimes measured;
  measured.prompt_tokens = batch.tokens();
  if (config.max_new_tokens == 0) batch.end(FinishReason::kLength);
  if (inputs.input_ids.size(0) == 0 || (batch.done() && !on_prefill)) {
    if (times != nullptr) *times = measured;
    return batch.take();
  }
  auto start = std::chrono::steady_clock::now();
  std::optional<ImageFeatures> features;
  if (inputs.pixel_values.defined()) features = model.encode_images(inputs);
  measured.vision = seconds_since(start);
  check_interrupt();
  const std::int64_t size = inputs.input_ids.size(0);
  const auto cache = model.new_cache(size, batch.longest() + config.max_new_tokens);
  start = std::chrono::steady_clock::now();
  TextOutput output = model.forward(inputs, features ? &*features : nullptr, *cache);
  measured.prefill = seconds_since(start);
  if (on_prefill) on_prefill(features ? &*features : nullptr, output);
  features.reset();  // the cache holds what later steps need
  output.last_hidden_state.reset();
  ModelInputs next;
  next.input_ids = at::zeros({size, 1}, at::kLong);
  next.attention_mask = at::zeros({size, 1}, at::kBool);
  start = std::chrono::steady_clock::now();
  batch.pick(output.logits, 0, next);
  for (std::int64_t step = 1; !batch.done(); ++step) {
    if (interrupted()) {
      batch.end(FinishReason::kInterrupted);
      break;
    }
    output = model.forward(next, nullptr, *cache);
    batch.pick(output.logits, step, next);
    ++measured.decode_steps;
  }
  measured.decode = seconds_since(start);
  if (times != nullptr) *times = measured;
  return batch.take();
}

}  // namespace vlmzoo
