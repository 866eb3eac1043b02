#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "vlmzoo/model.hpp"

/// What `bench` measures, apart from how it shows it.
namespace vlmzoo::app {

/// Values of the repeats of one measurement.
struct Series {
  std::vector<double> values;

  double min() const;
  double median() const;
};

/// One prompt with one picture of one tile, about as long as asked for.
struct BenchPrompt {
  ModelInputs inputs;
  std::int64_t tokens = 0;
};

/// The prompt is filled up with a plain word until it has `tokens` tokens, or as near below as the words allow; it is
/// longer when the picture alone takes more. Error: kUsage when that and `new_tokens` exceed the context.
BenchPrompt make_bench_prompt(const Model& model, std::int64_t tokens, std::int64_t new_tokens);

struct Speed {
  Series vision_ms_per_tile, prefill_s, prefill_tok_per_s, decode_tok_per_s;
  Series bandwidth;  ///< bytes per second, the mean of one reading before and one after each decode: it swings
};

/// Reads a buffer much larger than the caches with all threads.
class MemoryReader {
 public:
  MemoryReader();
  double bandwidth() const;  ///< bytes per second, the mean of several rounds. Error: kInterrupted

 private:
  std::vector<std::uint64_t> buffer_;
};

/// Vision, prefill and `new_tokens` greedy steps, `repeats` times, and the memory's speed beside them unless `memory`
/// is null. Error: kInterrupted.
Speed measure_speed(const Model& model, const BenchPrompt& prompt, std::int64_t new_tokens, std::int64_t repeats,
                    const MemoryReader* memory);

/// Bytes of weights that decoding one token reads: the matrices of the language role, and the embedding where it serves
/// as lm_head. A little too many where some aren't read: keys and values of an image are projected once (0.7 % of
/// Llama's).
std::uint64_t decode_bytes_per_token(const Model& model, const RolePrecision& precision);

}  // namespace vlmzoo::app
