#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/export.hpp"
#include "vlmzoo/nn/linear.hpp"

namespace vlmzoo {

enum class Role { kVision, kConnector, kLanguage };
inline constexpr std::array<Role, 3> kRoles = {Role::kVision, Role::kConnector, Role::kLanguage};
VLMZOO_API std::string to_string(Role role);

/// Which parts of a model are needed. `classify` on vision features loads no language model.
struct RoleSet {
  bool vision = true, connector = true, language = true;

  static RoleSet all() { return {}; }
  static RoleSet none() { return {false, false, false}; }
  static RoleSet vision_only() { return {true, false, false}; }
  bool any() const { return vision || connector || language; }
  bool has(Role role) const { return role == Role::kVision ? vision : role == Role::kConnector ? connector : language; }
};

/// One tensor of the checkpoint that a model takes.
struct VLMZOO_API Parameter {
  std::string name;  ///< in the checkpoint
  Role role;
  std::vector<std::int64_t> shape;
  bool linear = false;  ///< a matrix of a Linear (int8 applies to it)

  std::int64_t count() const;
};

/// A tensor that gradients reach: rows of one or more checkpoint tensors below each other (fused q, k, v).
struct Trainable {
  std::vector<std::string> names;
  Role role;
  at::Tensor value;  ///< fp32 leaf
};

struct VLMZOO_API Parameters {
  std::vector<Parameter> list;
  std::vector<Trainable> trainable;  ///< of the roles that aren't frozen, in a model that was created to be trained

  std::int64_t count(Role role) const;
  /// Bytes the weights of `roles` take once loaded.
  std::uint64_t bytes(const RolePrecision& precision, RoleSet roles = RoleSet::all()) const;
};

/// Where a model takes its tensors from while it builds itself. The same constructor runs once over a plan (shapes
/// only: counts, names, what is missing) and once over the data, so that everything wrong with a checkpoint is known
/// before anything is read. Tensors are read one after another, each converted at once into its final precision.
class VLMZOO_API Weights {
 public:
  struct Source {
    const Checkpoint* checkpoint = nullptr;  ///< null: seeded random values (init's formula)
    std::int64_t seed = 0;
    RolePrecision precision;  ///< resolved: no kAuto
    RoleSet roles;
    RoleSet trainable = RoleSet::none();
    at::Device device = at::kCPU;
  };

  static Weights plan(Source source);
  /// The second pass, over the data, after check() of the first.
  static Weights load(const Weights& plan);
  ~Weights();
  Weights(Weights&&) noexcept;
  Weights& operator=(Weights&&) noexcept;

  bool planning() const;

  /// A norm, bias or position embedding in the role's activation type; undefined for a role that isn't needed.
  at::Tensor tensor(Role role, const std::string& name, std::vector<std::int64_t> shape);

  /// A table of which rows are looked up, [V, H]: as tensor(), but 16 bits under kFp16 and kInt8 too.
  at::Tensor embedding(Role role, const std::string& name, std::vector<std::int64_t> shape);

  /// A Linear of the rows of one or more checkpoint matrices `<name>.weight [outs[i], in]` put below each other (fused
  /// q, k, v).
  Linear linear(Role role, const std::vector<std::string>& names, std::int64_t in,
                const std::vector<std::int64_t>& outs, bool bias);

  /// A Linear over a matrix that exists already (tied embeddings): no copy.
  Linear tied_linear(Role role, const at::Tensor& matrix);

  bool has(const std::string& name) const;  ///< in the checkpoint; always true without one
  /// Tensors of the checkpoint that may be left over without an error (buffers, duplicates of tied weights).
  void ignore(const std::string& name);

  const Parameters& parameters() const;
  at::ScalarType activation_type(Role role) const;
  /// Whether fp32 activations are better cast to bf16 for attention: beside int8 weights, where that is the faster one.
  bool attention_in_bf16(Role role) const;
  at::Device device() const;

  /// Throws Error(kMismatch) with every missing, unexpected and misshaped tensor: counted, the first 20 of each named.
  void check() const;

 private:
  struct Impl;
  explicit Weights(std::unique_ptr<Impl> impl);
  friend VLMZOO_API void check_memory(const Weights& plan, std::uint64_t working_memory);
  std::unique_ptr<Impl> impl_;
};

/// The value that `init` and `pretrained: false` give element `index` of tensor `name`; see docs/init_formula.md.
VLMZOO_API void fill_formula(const std::string& name, std::span<const std::int64_t> shape, std::int64_t seed,
                             std::uint64_t first, std::span<float> out);

/// Replaces kAuto by what suits the device and processor and applies `use_8bit`. Error: kUnsupported (int8 on CUDA, …).
VLMZOO_API RolePrecision resolve_precision(const ModelConfig& config, const at::Device& device);
/// `precision` with fp32 where `trained` roles are, and where gradients have to cross a frozen one: packed weights have
/// no backward.
VLMZOO_API RolePrecision training_precision(RolePrecision precision, const RoleSet& trained);
VLMZOO_API at::Device resolve_device(const std::string& device);  ///< Error: kUnsupported when it isn't there

/// Throws Error(kMemory) with the numbers and a precision that fits when the weights of `plan` and `working_memory`
/// bytes don't fit into free memory.
VLMZOO_API void check_memory(const Weights& plan, std::uint64_t working_memory);

}  // namespace vlmzoo
