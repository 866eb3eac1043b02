#include "checkpoint_writer.hpp"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <vector>

#include "parallel.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

/// Elements made at a time: 16 MB of fp32.
constexpr std::uint64_t kPiece = std::uint64_t{4} << 20;

/// The name that torch and config.json have for it.
const char* torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

/// Wherever there is one.
void replace_dtype(OrderedJson& object, const char* name) {
  for (auto& [key, value] : object.items()) {
    if (key == "torch_dtype" || key == "dtype") {
      value = name;
    } else if (value.is_object()) {
      replace_dtype(value, name);
    }
  }
}

using Shard = std::vector<const Parameter*>;

std::uint64_t bytes_of(const Parameter& parameter, DType dtype) {
  return static_cast<std::uint64_t>(parameter.count()) * size_of(dtype);
}

/// In the order of `parameters`, which is the order in which they are read; a tensor is never split.
std::vector<Shard> make_shards(const Parameters& parameters, const CheckpointFormat& format) {
  std::vector<Shard> result(1);
  std::uint64_t bytes = 0;
  for (const Parameter& parameter : parameters.list) {
    const std::uint64_t more = bytes_of(parameter, format.dtype);
    if (!result.back().empty() && bytes + more > format.max_shard_bytes) {
      result.emplace_back();
      bytes = 0;
    }
    result.back().push_back(&parameter);
    bytes += more;
  }
  return result;
}

template <class T>
void convert(std::span<const float> values, std::byte* out) {
  for (const float value : values) {
    const T converted(value);  // rounds to nearest, ties to even
    std::memcpy(out, &converted, sizeof(T));
    out += sizeof(T);
  }
}

void convert(std::span<const float> values, DType dtype, std::byte* out) {
  switch (dtype) {
    case DType::kF16:
      return convert<c10::Half>(values, out);
    case DType::kBF16:
      return convert<c10::BFloat16>(values, out);
    default:
      std::memcpy(out, values.data(), values.size_bytes());
  }
}

/// Elements [first, first + count) of the tensor in `dtype`.
void make_piece(const Parameter& parameter, DType dtype, const WeightSource& source, std::uint64_t first,
                std::vector<float>& values, std::vector<std::byte>& out, std::uint64_t count) {
  const int threads = at::get_num_threads();
  const std::uint64_t share = (count + threads - 1) / threads;
  on_threads(threads, [&](int thread) {
    const std::uint64_t begin = std::min(count, share * thread), end = std::min(count, begin + share);
    const std::span<float> part(values.data() + begin, values.data() + end);
    if (part.empty()) return;
    source(parameter, first + begin, part);
    convert(part, dtype, out.data() + begin * size_of(dtype));
  });
}

void write_shard(const Shard& shard, DType dtype, const WeightSource& source, const std::filesystem::path& path,
                 Progress& progress) {
  std::vector<TensorEntry> entries;
  for (const Parameter* parameter : shard) entries.push_back({parameter->name, dtype, parameter->shape, 0, 0});
  SafetensorsWriter writer(path, std::move(entries), {{"format", "pt"}});
  std::vector<float> values(kPiece);
  std::vector<std::byte> out(kPiece * size_of(dtype));
  for (const Parameter* parameter : shard) {
    const auto count = static_cast<std::uint64_t>(parameter->count());
    for (std::uint64_t first = 0; first < count; first += kPiece) {
      check_interrupt();
      const std::uint64_t piece = std::min(kPiece, count - first);
      make_piece(*parameter, dtype, source, first, values, out, piece);
      writer.write(std::span(out).first(piece * size_of(dtype)));
      progress.advance(piece * size_of(dtype));
    }
  }
  writer.commit();
}

}  // namespace

DType parse_dtype(const std::string& text) {
  if (text == "bf16") return DType::kBF16;
  if (text == "fp16") return DType::kF16;
  if (text == "fp32") return DType::kF32;
  throw Error(ErrorCode::kUsage, fmt::format("--dtype is '{}'; expected bf16, fp16 or fp32", text));
}

OrderedJson parse_ordered(const std::string& text, const std::string& where) {
  if (!parse_json(text, where).is_object()) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: expected a JSON object", where));
  }
  return OrderedJson::parse(text);
}

void set_dtype(OrderedJson& config, DType dtype) {
  replace_dtype(config, torch_name(dtype));
  if (!config.contains("torch_dtype") && !config.contains("dtype")) config["torch_dtype"] = torch_name(dtype);
}

std::uint64_t total_bytes(const Parameters& parameters, DType dtype) {
  std::uint64_t result = 0;
  for (const Parameter& parameter : parameters.list) result += bytes_of(parameter, dtype);
  return result;
}

void check_space(const std::filesystem::path& folder, std::uint64_t bytes) {
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (!error && space.available < bytes) {
    throw Error(ErrorCode::kIo, fmt::format("{}: {} are free, the weights need {}", folder.parent_path().string(),
                                            format_bytes(space.available), format_bytes(bytes)));
  }
}

void write_weights(const Parameters& parameters, const CheckpointFormat& format, const WeightSource& source,
                   const char* what, const std::filesystem::path& folder) {
  const std::uint64_t total = total_bytes(parameters, format.dtype);
  check_space(folder, total);
  const std::vector<Shard> shards = make_shards(parameters, format);
  Progress progress(what, total, "B");
  if (shards.size() == 1) {
    write_shard(shards.front(), format.dtype, source, folder / "model.safetensors", progress);
    return;
  }
  OrderedJson index = {{"metadata", {{"total_size", total}}}, {"weight_map", OrderedJson::object()}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_shard(shards[i], format.dtype, source, folder / name, progress);
    for (const Parameter* parameter : shards[i]) index["weight_map"][parameter->name] = name;
  }
  write_file(folder / "model.safetensors.index.json", to_text(index));
}

}  // namespace vlmzoo::app
