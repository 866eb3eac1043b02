#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <map>
#include <optional>
#include <set>
#include <utility>

#include "head_layout.hpp"
#include "vlmzoo/safetensors.hpp"
#include "vlmzoo/tensor_types.hpp"
#include "vlmzoo/training.hpp"

namespace vlmzoo {
namespace {

DType file_type(const NamedTensor& named) {
  if (const std::optional<DType> type = dtype_of(named.tensor.scalar_type())) return *type;
  throw Error(ErrorCode::kUnsupported, fmt::format("{} has the type {}, which safetensors files don't hold", named.name,
                                                   c10::toString(named.tensor.scalar_type())));
}

}  // namespace

void write_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  for (const NamedTensor& named : tensors)
    entries.push_back({named.name, file_type(named), named.tensor.sizes().vec()});
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (const NamedTensor& named : tensors) {
    const at::Tensor tensor = named.tensor.detach().cpu().contiguous();
    writer.write(std::span(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()));
  }
  writer.commit();
}

std::vector<NamedTensor> read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::vector<NamedTensor> tensors;
  for (const TensorEntry& entry : file.entries()) {
    const at::Tensor tensor = at::empty(entry.shape, scalar_type(entry.dtype));
    file.read(entry, 0, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()});
    tensors.push_back({entry.name, tensor, false});
  }
  return tensors;
}

void copy_tensors(const std::string& where, std::span<const NamedTensor> tensors, std::span<const NamedTensor> values) {
  std::vector<TensorSpec> expected;
  std::vector<FoundTensor> found;
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& named : tensors)
    expected.push_back({.name = named.name, .shape = named.tensor.sizes().vec()});
  for (const NamedTensor& named : values) {
    found.push_back({named.name, named.tensor.sizes().vec()});
    by_name.emplace(named.name, named.tensor);
  }
  check_head_tensors(where, expected, found);
  for (const NamedTensor& named : tensors) {
    const at::ScalarType type = by_name.at(named.name).scalar_type();
    if (type != named.tensor.scalar_type()) {
      throw Error(ErrorCode::kMismatch, fmt::format("{}: {} is {}, expected {}", where, named.name, c10::toString(type),
                                                    c10::toString(named.tensor.scalar_type())));
    }
  }
  const at::NoGradGuard no_graph;
  for (const NamedTensor& named : tensors) at::Tensor(named.tensor).copy_(by_name.at(named.name));
}

}  // namespace vlmzoo
