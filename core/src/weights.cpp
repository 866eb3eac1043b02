#include "vlmzoo/weights.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

#include "nn/attention_bf16.hpp"
#include "nn/linear_kernel.hpp"
#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/system.hpp"
#include "vlmzoo/tensor_types.hpp"

namespace vlmzoo {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // elements a thread reads and converts at a time
constexpr std::int64_t kBlock = std::int64_t{1} << 23;  // elements staged for packing
constexpr std::size_t kNamed = 20;                      // tensors of a kind named in an error,
constexpr std::size_t kListed = 1100;                   // or as many as fit into that many bytes

std::int64_t product(std::span<const std::int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

Precision precision_of(const RolePrecision& precision, Role role) {
  return role == Role::kVision ? precision.vision : role == Role::kConnector ? precision.connector : precision.language;
}

/// "3 missing:", then a tensor per line.
std::string listing(const char* what, const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string text = fmt::format("\n  {} {}:", lines.size(), what);
  std::size_t shown = 0;
  for (; shown < std::min(kNamed, lines.size()) && text.size() < kListed; ++shown)
    text += "\n    " + shortened(lines[shown], 150);
  if (lines.size() > shown) text += fmt::format("\n    and {} more", lines.size() - shown);
  return text;
}

}  // namespace

std::string to_string(Role role) {
  return role == Role::kVision ? "vision" : role == Role::kConnector ? "connector" : "language";
}

std::int64_t Parameter::count() const { return product(shape); }

std::int64_t Parameters::count(Role role) const {
  std::int64_t sum = 0;
  for (const Parameter& parameter : list) sum += parameter.role == role ? parameter.count() : 0;
  return sum;
}

std::uint64_t Parameters::bytes(const RolePrecision& precision, RoleSet roles) const {
  std::uint64_t sum = 0;
  for (const Parameter& parameter : list) {
    if (!roles.has(parameter.role)) continue;
    const Precision chosen = precision_of(precision, parameter.role);
    const auto count = static_cast<std::uint64_t>(parameter.count());
    const bool wide = chosen == Precision::kFp32 || (chosen != Precision::kBf16 && parameter.shape.size() != 2);
    const bool narrow = chosen == Precision::kInt8 && parameter.linear;
    sum += wide ? 4 * count : narrow ? count + 12 * static_cast<std::uint64_t>(parameter.shape[0]) : 2 * count;
  }
  return sum;
}

struct Weights::Impl {
  Source source;
  bool planning = true;
  Parameters parameters;
  std::set<std::string> known;  // taken or ignored
  std::vector<std::string> missing, misshaped;
  std::unique_ptr<Progress> progress;
  at::Tensor staging;

  /// Bytes read for `count` elements of a tensor, the unit of the progress line.
  std::uint64_t bytes_read(const std::string& name, std::int64_t count) const {
    const TensorEntry* entry = source.checkpoint != nullptr ? source.checkpoint->find(name) : nullptr;
    return static_cast<std::uint64_t>(count) * (entry != nullptr ? size_of(entry->dtype) : sizeof(float));
  }

  void record(Role role, const std::string& name, std::vector<std::int64_t> shape, bool linear) {
    known.insert(name);
    if (source.checkpoint != nullptr) {
      const TensorEntry* entry = source.checkpoint->find(name);
      if (entry == nullptr) {
        missing.push_back(fmt::format("{} {}", name, vlmzoo::to_string(shape)));
      } else if (entry->shape != shape) {
        misshaped.push_back(
            fmt::format("{}: expected {}, got {}", name, vlmzoo::to_string(shape), vlmzoo::to_string(entry->shape)));
      } else if (!c10::isFloatingType(scalar_type(entry->dtype))) {
        misshaped.push_back(fmt::format("{}: expected F32, F16 or BF16, got {}", name, name_of(entry->dtype)));
      }
    }
    parameters.list.push_back({name, role, std::move(shape), linear});
  }

  /// Elements [first, first + into.numel()) of a tensor, converted into the flat contiguous CPU tensor `into`.
  void read(const std::string& name, std::span<const std::int64_t> shape, std::int64_t first, const at::Tensor& into) {
    check_interrupt();
    const std::int64_t count = into.numel(), chunks = (count + kChunk - 1) / kChunk;
    at::parallel_for(0, chunks, 1, [&](std::int64_t begin, std::int64_t end) {
      const c10::AutoGradMode no_grad(false);
      std::vector<std::byte> buffer;
      for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        const std::int64_t from = chunk * kChunk, size = std::min(kChunk, count - from);
        read_chunk(name, shape, first + from, into.narrow(0, from, size), buffer);
      }
    });
    if (progress) progress->advance(bytes_read(name, count));
  }

  void read_chunk(const std::string& name, std::span<const std::int64_t> shape, std::int64_t first,
                  const at::Tensor& into, std::vector<std::byte>& buffer) const {
    const auto count = static_cast<std::size_t>(into.numel());
    if (source.checkpoint == nullptr) {
      buffer.resize(count * sizeof(float));
      auto* values = reinterpret_cast<float*>(buffer.data());
      fill_formula(name, shape, source.seed, static_cast<std::uint64_t>(first), {values, count});
      into.copy_(at::from_blob(values, into.sizes(), at::kFloat));
      return;
    }
    const TensorEntry& entry = *source.checkpoint->find(name);
    const std::size_t size = size_of(entry.dtype);
    const at::ScalarType type = scalar_type(entry.dtype);
    const auto offset = static_cast<std::uint64_t>(first) * size;
    if (type == into.scalar_type()) {
      source.checkpoint->read(name, offset, {static_cast<std::byte*>(into.mutable_data_ptr()), count * size});
      return;
    }
    buffer.resize(count * size);
    source.checkpoint->read(name, offset, buffer);
    into.copy_(at::from_blob(buffer.data(), into.sizes(), type));
  }

  at::Tensor whole(const std::string& name, const std::vector<std::int64_t>& shape, at::ScalarType type) {
    at::Tensor result = empty_weight(shape, type);
    read(name, shape, 0, result.view({-1}));
    return result.to(source.device);
  }

  at::Tensor trained(std::vector<std::string> names, Role role, at::Tensor value) {
    if (!source.trainable.has(role)) return value;
    value.set_requires_grad(true);
    parameters.trainable.push_back({std::move(names), role, value});
    return value;
  }

  /// Rows [first, first + into.size(0)) of the matrices laid below each other.
  void read_rows(const std::vector<std::string>& names, std::int64_t in, const std::vector<std::int64_t>& outs,
                 std::int64_t first, const at::Tensor& into) {
    std::int64_t top = 0;
    for (std::size_t i = 0; i < names.size(); top += outs[i], ++i) {
      const std::int64_t begin = std::max(first, top), end = std::min(first + into.size(0), top + outs[i]);
      if (begin >= end) continue;
      const std::vector<std::int64_t> shape = {outs[i], in};
      read(names[i] + ".weight", shape, (begin - top) * in, into.narrow(0, begin - first, end - begin).view({-1}));
    }
  }

  void stage(std::int64_t count, at::ScalarType type) {
    if (staging.defined() && staging.scalar_type() == type && staging.numel() >= count) return;
    staging.reset();
    staging = at::empty({std::max(kBlock, count)}, type);
  }

  /// The matrices below each other in a kernel's own form, a block of rows at a time; null when there is no such kernel
  /// here or a value is beyond its range.
  std::shared_ptr<const Linear::Kernel> packed(Precision precision, const std::vector<std::string>& names,
                                               std::int64_t in, const std::vector<std::int64_t>& outs,
                                               const at::Tensor& bias) {
    const std::int64_t out = std::accumulate(outs.begin(), outs.end(), std::int64_t{0});
    const auto packer = make_packer(precision, in, out);
    if (packer == nullptr) return nullptr;
    // One buffer for all matrices: freed ones between packed ones would stay lost to the heap.
    const std::int64_t rows = std::max<std::int64_t>(1, kBlock / (in * RowPacker::kRows)) * RowPacker::kRows;
    stage(rows * in, at::kFloat);
    for (std::int64_t first = 0; first < out; first += rows) {
      const std::int64_t count = std::min(rows, out - first);
      const at::Tensor staged = staging.narrow(0, 0, count * in).view({count, in});
      read_rows(names, in, outs, first, staged);
      if (!packer->add(first, staged)) return nullptr;
    }
    return packer->finish(bias);
  }

  Linear for_many_rows(const std::vector<std::string>& names, std::int64_t in, const std::vector<std::int64_t>& outs,
                       const at::Tensor& bias) {
    const std::int64_t out = std::accumulate(outs.begin(), outs.end(), std::int64_t{0});
    stage(out * in, at::kBFloat16);
    const at::Tensor staged = staging.narrow(0, 0, out * in).view({out, in});
    read_rows(names, in, outs, 0, staged);
    return Linear::for_many_rows(staged, bias);
  }
};

Weights::Weights(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Weights::~Weights() = default;
Weights::Weights(Weights&&) noexcept = default;
Weights& Weights::operator=(Weights&&) noexcept = default;

Weights Weights::plan(Source source) {
  auto impl = std::make_unique<Impl>();
  impl->source = source;
  return Weights(std::move(impl));
}

Weights Weights::load(const Weights& plan) {
  auto impl = std::make_unique<Impl>();
  impl->source = plan.impl_->source;
  impl->planning = false;
  impl->parameters = plan.impl_->parameters;
  std::uint64_t bytes = 0;
  for (const Parameter& parameter : impl->parameters.list) {
    if (impl->source.roles.has(parameter.role)) bytes += impl->bytes_read(parameter.name, parameter.count());
  }
  impl->progress = std::make_unique<Progress>("loading weights", bytes, "B");
  return Weights(std::move(impl));
}

bool Weights::planning() const { return impl_->planning; }
const Parameters& Weights::parameters() const { return impl_->parameters; }
at::Device Weights::device() const { return impl_->source.device; }

at::ScalarType Weights::activation_type(Role role) const {
  switch (precision_of(impl_->source.precision, role)) {
    case Precision::kBf16:
      return at::kBFloat16;
    case Precision::kFp16:
      return impl_->source.device.is_cpu() ? at::kFloat : at::kHalf;
    default:
      return at::kFloat;
  }
}

bool Weights::attention_in_bf16(Role role) const {
  return precision_of(impl_->source.precision, role) == Precision::kInt8 && impl_->source.device.is_cpu() &&
         has_bf16_attention();
}

at::Tensor Weights::tensor(Role role, const std::string& name, std::vector<std::int64_t> shape) {
  if (impl_->planning) {
    impl_->record(role, name, std::move(shape), /*linear=*/false);
    return {};
  }
  if (!impl_->source.roles.has(role)) return {};
  return impl_->trained({name}, role, impl_->whole(name, shape, activation_type(role)));
}

at::Tensor Weights::embedding(Role role, const std::string& name, std::vector<std::int64_t> shape) {
  if (impl_->planning) return tensor(role, name, std::move(shape));
  if (!impl_->source.roles.has(role)) return {};
  const Precision precision = precision_of(impl_->source.precision, role);
  at::ScalarType type = activation_type(role);
  if (precision == Precision::kFp16 || precision == Precision::kInt8) {
    // Sixteen bits, and the checkpoint's own where it has them: nothing is rounded twice.
    const TensorEntry* entry = impl_->source.checkpoint != nullptr ? impl_->source.checkpoint->find(name) : nullptr;
    type = entry != nullptr && entry->dtype == DType::kBF16 ? at::kBFloat16 : at::kHalf;
  }
  if (type == at::kHalf) {  // values beyond fp16's range became infinite: bf16 holds them
    const at::Tensor half = impl_->whole(name, shape, type);
    const auto [smallest, largest] = half.aminmax();
    if (smallest.isfinite().item<bool>() && largest.isfinite().item<bool>()) return impl_->trained({name}, role, half);
    type = at::kBFloat16;
  }
  return impl_->trained({name}, role, impl_->whole(name, shape, type));
}

Linear Weights::linear(Role role, const std::vector<std::string>& names, std::int64_t in,
                       const std::vector<std::int64_t>& outs, bool bias) {
  if (impl_->planning) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      impl_->record(role, names[i] + ".weight", {outs[i], in}, /*linear=*/true);
      if (bias) impl_->record(role, names[i] + ".bias", {outs[i]}, /*linear=*/false);
    }
    return {};
  }
  if (!impl_->source.roles.has(role)) return {};
  const Precision precision = precision_of(impl_->source.precision, role);
  const std::int64_t out = std::accumulate(outs.begin(), outs.end(), std::int64_t{0});
  at::Tensor biases;
  if (bias) {
    biases = at::empty({out}, at::kFloat);
    std::int64_t row = 0;
    for (std::size_t i = 0; i < names.size(); row += outs[i], ++i) {
      const std::vector<std::int64_t> shape = {outs[i]};
      impl_->read(names[i] + ".bias", shape, 0, biases.narrow(0, row, outs[i]));
    }
  }
  const bool narrow = precision == Precision::kFp16 || precision == Precision::kInt8;
  if (narrow && impl_->source.device.is_cpu()) {
    if (auto kernel = impl_->packed(precision, names, in, outs, biases)) return Linear(std::move(kernel));
  }
  const at::ScalarType type = activation_type(role);
  if (type == at::kBFloat16 && impl_->source.device.is_cpu() && has_bf16_products() && role != Role::kLanguage &&
      !impl_->source.trainable.has(role)) {
    return impl_->for_many_rows(names, in, outs, biases.defined() ? biases.to(type) : biases);
  }
  at::Tensor matrix = empty_weight({out, in}, type);
  impl_->read_rows(names, in, outs, 0, matrix);
  std::vector<std::string> weight_names, bias_names;
  for (const std::string& name : names) {
    weight_names.push_back(name + ".weight");
    bias_names.push_back(name + ".bias");
  }
  const at::Tensor weight = impl_->trained(weight_names, role, matrix.to(impl_->source.device));
  return Linear::plain(weight,
                       bias ? impl_->trained(bias_names, role, biases.to(impl_->source.device, type)) : at::Tensor());
}

Linear Weights::tied_linear(Role role, const at::Tensor& matrix) {
  return impl_->planning || !impl_->source.roles.has(role) ? Linear() : Linear::plain(matrix, {});
}

bool Weights::has(const std::string& name) const {
  return impl_->source.checkpoint == nullptr || impl_->source.checkpoint->find(name) != nullptr;
}

void Weights::ignore(const std::string& name) { impl_->known.insert(name); }

void Weights::check() const {
  if (impl_->source.checkpoint == nullptr) return;
  std::vector<std::string> unexpected;
  for (const std::string& name : impl_->source.checkpoint->names()) {
    if (!impl_->known.contains(name)) {
      unexpected.push_back(fmt::format("{} {}", name, vlmzoo::to_string(impl_->source.checkpoint->find(name)->shape)));
    }
  }
  if (impl_->missing.empty() && impl_->misshaped.empty() && unexpected.empty()) return;
  std::string folder = impl_->source.checkpoint->folder().string();
  throw Error(
      ErrorCode::kMismatch,
      fmt::format("the weights in {} do not fit its config.json:{}{}{}", folder, listing("missing", impl_->missing),
                  listing("of another shape or type", impl_->misshaped), listing("unexpected", unexpected)));
}

void check_memory(const Weights& plan, std::uint64_t working_memory) {
  const auto& source = plan.impl_->source;
  if (!source.device.is_cpu()) return;
  const std::uint64_t free = available_memory();
  const auto need = [&](const RolePrecision& precision) {
    return plan.parameters().bytes(precision, source.roles) + working_memory;
  };
  const std::uint64_t needed = need(source.precision);
  if (needed <= free) return;
  std::string advice = "no precision fits; free some memory or use a smaller model";
  for (const Precision precision : {Precision::kFp16, Precision::kInt8}) {
    const RolePrecision everywhere{precision, precision, precision};
    const std::uint64_t smaller = need(training_precision(everywhere, source.trainable));
    if (smaller > free || smaller >= needed || !cpu_features().fbgemm()) continue;
    advice = fmt::format("precision {} would fit with {}", to_string(precision), format_bytes(smaller));
    break;
  }
  throw Error(ErrorCode::kMemory, fmt::format("the model needs {} (weights {}, and {} to work) and {} are free; {}",
                                              format_bytes(needed), format_bytes(needed - working_memory),
                                              format_bytes(working_memory), format_bytes(free), advice));
}

}  // namespace vlmzoo
