#include "measure.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <string>

#include "clock.hpp"
#include "parallel.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

/// Devices other than the processor compute behind our back.
void wait_for(const at::Tensor& tensor) {
  if (!tensor.device().is_cpu()) tensor.reshape({-1}).select(0, 0).item();
}

/// A picture that is neither flat nor noise. With a tile's side it is one tile, without a thumbnail.
Image make_picture(std::int64_t side) {
  Image image{side, side, {}};
  image.pixels.reserve(static_cast<std::size_t>(side * side * 3));
  for (std::int64_t y = 0; y < side; ++y) {
    for (std::int64_t x = 0; x < side; ++x) {
      for (const std::int64_t value : {x * 255 / side, y * 255 / side, (x * 7 ^ y * 5) & 255}) {
        image.pixels.push_back(static_cast<std::uint8_t>(value));
      }
    }
  }
  return image;
}

at::Tensor likeliest(const TextOutput& output) {
  return output.logits.select(/*dim=*/1, /*index=*/-1).argmax(/*dim=*/-1, /*keepdim=*/true);
}

std::uint64_t sum(const std::uint64_t* words, std::size_t count) {
  // Eight sums, so that additions don't wait for each other.
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
    for (std::size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(std::begin(sums), std::end(sums), std::uint64_t{0});
}

}  // namespace

double Series::min() const { return *std::min_element(values.begin(), values.end()); }

double Series::median() const {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

BenchPrompt make_bench_prompt(const Model& model, std::int64_t tokens, std::int64_t new_tokens) {
  const std::int64_t context = model.info().context_length;
  if (context - new_tokens < tokens) {
    throw Error(ErrorCode::kUsage, fmt::format("a prompt of {} tokens and {} new ones exceed the context of {} tokens",
                                               tokens, new_tokens, context));
  }
  Request request;
  request.images.push_back(make_picture(model.info().image_size));
  const auto build = [&](std::int64_t words) {
    request.text = "<image>\n";
    for (std::int64_t i = 0; i < words; ++i) request.text += i == 0 ? "a" : " a";
    ModelInputs inputs = model.preprocess({&request, 1});
    const std::int64_t count = inputs.input_ids.size(1);
    return BenchPrompt{std::move(inputs), count};
  };

  BenchPrompt best = build(0);
  const std::int64_t bare = best.tokens;
  std::int64_t words = tokens - bare;
  // A word is a token or a few, so the second try is near already.
  for (int attempt = 0; attempt < 4 && words > 0; ++attempt) {
    BenchPrompt prompt = build(words);
    const std::int64_t excess = prompt.tokens - tokens;
    const std::int64_t per_word = std::max<std::int64_t>(1, (prompt.tokens - bare) / words);
    if (excess <= 0 && prompt.tokens > best.tokens) best = std::move(prompt);
    if (excess == 0) break;
    words -= excess > 0 ? (excess + per_word - 1) / per_word : excess / per_word;
  }
  return best;
}

Speed measure_speed(const Model& model, const BenchPrompt& prompt, std::int64_t new_tokens, std::int64_t repeats,
                    const MemoryReader* memory) {
  Speed speed;
  for (std::int64_t repeat = 0; repeat < repeats; ++repeat) {
    check_interrupt();
    auto start = Clock::now();
    const ImageFeatures features = model.encode_images(prompt.inputs);
    wait_for(features.last_hidden_state);
    speed.vision_ms_per_tile.values.push_back(seconds_since(start) * 1e3);

    check_interrupt();
    const auto cache = model.new_cache(/*batch=*/1, prompt.tokens + new_tokens);
    start = Clock::now();
    TextOutput output = model.forward(prompt.inputs, &features, *cache);
    wait_for(output.logits);
    speed.prefill_s.values.push_back(seconds_since(start));
    speed.prefill_tok_per_s.values.push_back(static_cast<double>(prompt.tokens) / speed.prefill_s.values.back());

    ModelInputs step;
    const double before = memory != nullptr ? memory->bandwidth() : 0;
    start = Clock::now();
    for (std::int64_t i = 0; i < new_tokens; ++i) {
      check_interrupt();
      step.input_ids = likeliest(output);
      output = model.forward(step, nullptr, *cache);
    }
    wait_for(output.logits);
    speed.decode_tok_per_s.values.push_back(static_cast<double>(new_tokens) / seconds_since(start));
    if (memory != nullptr) speed.bandwidth.values.push_back((before + memory->bandwidth()) / 2);
  }
  return speed;
}

std::uint64_t decode_bytes_per_token(const Model& model, const RolePrecision& precision) {
  const ModelInfo& info = model.info();
  Parameters read;
  const Parameter* embedding = nullptr;
  bool own_lm_head = false;
  for (const Parameter& parameter : model.parameters().list) {
    if (parameter.role != Role::kLanguage || parameter.shape.size() != 2) continue;
    if (parameter.linear) {
      own_lm_head = own_lm_head || parameter.shape.front() >= info.vocab_size;
      read.list.push_back(parameter);
    } else if (parameter.shape.front() >= info.vocab_size) {
      embedding = &parameter;
    }
  }
  if (!own_lm_head && embedding != nullptr) read.list.push_back(*embedding);
  return read.bytes(precision);
}

MemoryReader::MemoryReader() {
  constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
  buffer_.assign((available_memory() > 2 * kGiB ? kGiB : kGiB / 2) / sizeof(std::uint64_t), 1);
}

double MemoryReader::bandwidth() const {
  constexpr int kRounds = 4;
  const int threads = at::get_num_threads();
  const std::size_t share = buffer_.size() / static_cast<std::size_t>(threads);
  std::atomic<std::uint64_t> total{0};  // used, so that the reads can't be left out
  const auto start = Clock::now();
  for (int round = 0; round < kRounds; ++round) {
    check_interrupt();
    on_threads(threads,
               [&](int thread) { total += sum(buffer_.data() + share * static_cast<std::size_t>(thread), share); });
  }
  const std::size_t words = kRounds * share * static_cast<std::size_t>(threads);
  return total == 0 ? 0 : static_cast<double>(words * sizeof(std::uint64_t)) / seconds_since(start);
}

}  // namespace vlmzoo::app
