#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "output.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::app {

/// "bf16", "fp16" or "fp32". Error: kUsage.
DType parse_dtype(const std::string& text);

/// A JSON object, checked like every JSON file, with the order of its keys. Error: kCorrupt.
OrderedJson parse_ordered(const std::string& text, const std::string& where);

/// Sets `torch_dtype` or `dtype` wherever the config.json has one, and at the top in any case.
void set_dtype(OrderedJson& config, DType dtype);

struct CheckpointFormat {
  DType dtype = DType::kBF16;  ///< kF32, kF16 or kBF16
  std::uint64_t max_shard_bytes = 5'000'000'000;
};

/// Gives elements [first, first + out.size()) of a tensor; called from several threads at once.
using WeightSource = std::function<void(const Parameter& parameter, std::uint64_t first, std::span<float> out)>;

/// Bytes of the tensors of `parameters` in `dtype`.
std::uint64_t total_bytes(const Parameters& parameters, DType dtype);

/// Error: kIo when `folder`'s disk has less room.
void check_space(const std::filesystem::path& folder, std::uint64_t bytes);

/// Writes every tensor of `parameters` into `folder`: model.safetensors, or shards and their index as transformers
/// names them when that grows past max_shard_bytes. `what` names the work while it runs. Errors: kIo, kInterrupted, and
/// the source's.
void write_weights(const Parameters& parameters, const CheckpointFormat& format, const WeightSource& source,
                   const char* what, const std::filesystem::path& folder);

}  // namespace vlmzoo::app
