#pragma once

#include <cstdint>
#include <filesystem>

#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::app {

struct RandomWeights {
  DType dtype = DType::kBF16;  ///< kF32, kF16 or kBF16
  std::int64_t seed = 0;
  std::uint64_t max_shard_bytes = 0;
};

/// Bytes of the tensors of `parameters` in `dtype`.
std::uint64_t total_bytes(const Parameters& parameters, DType dtype);

/// Writes every tensor of `parameters` into `folder`, with the values of fill_formula(): model.safetensors, or shards
/// and their index as transformers names them when that grows past max_shard_bytes. Errors: kIo, kInterrupted.
void write_random_weights(const Parameters& parameters, const RandomWeights& options,
                          const std::filesystem::path& folder);

}  // namespace vlmzoo::app
