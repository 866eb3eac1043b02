#include "training/export.hpp"

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "checkpoint_writer.hpp"
#include "output_folder.hpp"
#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/tensor_types.hpp"

namespace vlmzoo::app {
namespace {

/// Values of each trained tensor of the checkpoint, flat: a fused one is cut into the rows of its parts.
std::map<std::string, at::Tensor> trained_values(const Model& model) {
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter& parameter : model.parameters().list) parameters.emplace(parameter.name, &parameter);
  std::map<std::string, at::Tensor> result;
  for (const Trainable& trainable : model.parameters().trainable) {
    const at::Tensor flat = trainable.value.detach().to(at::kCPU, at::kFloat).contiguous().view({-1});
    std::int64_t first = 0;
    for (const std::string& name : trainable.names) {
      const std::int64_t count = parameters.at(name)->count();
      result.emplace(name, flat.narrow(0, first, count));
      first += count;
    }
  }
  return result;
}

void read_original(const Checkpoint& checkpoint, const Parameter& parameter, std::uint64_t first,
                   std::span<float> out) {
  const TensorEntry& entry = *checkpoint.find(parameter.name);
  const std::size_t size = size_of(entry.dtype);
  std::vector<std::byte> bytes(out.size() * size);
  checkpoint.read(parameter.name, first * size, bytes);
  const auto count = static_cast<std::int64_t>(out.size());
  at::from_blob(out.data(), {count}, at::kFloat).copy_(at::from_blob(bytes.data(), {count}, scalar_type(entry.dtype)));
}

}  // namespace

void export_model(const Model& model, const ModelConfig& config, const std::filesystem::path& folder,
                  std::optional<DType> dtype) {
  const std::filesystem::path source = resolve_pretrained_path(config.pretrained_path);
  const std::map<std::string, at::Tensor> trained = trained_values(model);
  std::optional<Checkpoint> original;
  if (config.pretrained) original.emplace(source);
  const auto values = [&](const Parameter& parameter, std::uint64_t first, std::span<float> out) {
    if (const auto found = trained.find(parameter.name); found != trained.end()) {
      const float* begin = found->second.const_data_ptr<float>() + first;
      std::copy(begin, begin + out.size(), out.begin());
    } else if (original) {
      read_original(*original, parameter, first, out);
    } else {
      fill_formula(parameter.name, parameter.shape, config.seed, first, out);
    }
  };
  CheckpointFormat format;
  if (original) format.dtype = original->find(model.parameters().list.front().name)->dtype;
  if (dtype) format.dtype = *dtype;

  OutputFolder output(folder, /*replace=*/true);
  for (const char* name : kSmallCheckpointFiles) {
    const std::filesystem::path file = source / name;
    if (std::filesystem::exists(file)) write_file(output.temporary() / name, read_file(file));
  }
  if (dtype) {
    const std::string where = (source / "config.json").string();
    OrderedJson json = parse_ordered(read_file(source / "config.json"), where);
    set_dtype(json, *dtype);
    write_file(output.temporary() / "config.json", to_text(json));
  }
  write_weights(model.parameters(), format, values, "writing the trained model", output.temporary());
  output.commit();
}

}  // namespace vlmzoo::app
