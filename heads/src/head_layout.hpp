#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo {

inline constexpr std::int64_t kMaxClasses = 100'000;

/// One tensor that a HeadConfig makes, and how a fresh one begins.
struct TensorSpec {
  enum class Fill { kUniform, kZero, kOne, kCounter };

  std::string name;
  std::vector<std::int64_t> shape;
  Fill fill = Fill::kUniform;
  std::int64_t fan_in = 0;  ///< of the Linear it belongs to
  bool trainable = true;
};

/// What a head is compared with: a tensor of a file or one in memory.
struct FoundTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// Throws Error(code) beginning with `where` unless `config` describes a head that can be built.
void check_head_config(const HeadConfig& config, const std::string& where, ErrorCode code);

/// The same classifier with what its variant doesn't use at its default: layers of a linear one, the prompt of one on
/// vision features.
ClassifierConfig in_use(ClassifierConfig classifier);

/// Whether it has a vision_projection.
bool projects(const ClassifierConfig& classifier);

/// The tensors of a checked config, in the order of the file.
std::vector<TensorSpec> head_layout(const HeadConfig& config);

/// Throws Error(kMismatch) with every missing, unexpected and misshaped tensor: counted, the first 20 of each named.
void check_head_tensors(const std::string& where, const std::vector<TensorSpec>& layout,
                        std::span<const FoundTensor> found);

/// Throws Error(kMemory) when the tensors wouldn't fit into free memory.
void check_head_memory(const std::vector<TensorSpec>& layout);

/// "[2, 3]", for messages.
std::string shape_of(const at::Tensor& tensor);

/// A file's text for a message: quoted, control characters escaped, cut when long.
std::string in_quotes(const std::string& text);

}  // namespace vlmzoo
