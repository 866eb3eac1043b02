#include "vlmzoo/preprocessing.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

constexpr std::int64_t kClipSize = 224;
constexpr std::string_view kMark = "<image>";

std::array<double, 3> three_numbers(const Json& json, const std::string& key, const std::array<double, 3>& otherwise,
                                    const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return otherwise;
  std::array<double, 3> values{};
  if (!found->is_array() || found->size() != 3)
    throw Error(ErrorCode::kConfig, fmt::format("{}: {} must be three numbers, got {}", where, key, found->dump()));
  for (std::size_t i = 0; i < 3; ++i) {
    if (!(*found)[i].is_number())
      throw Error(ErrorCode::kConfig, fmt::format("{}: {} must be three numbers, got {}", where, key, found->dump()));
    values[i] = (*found)[i].get<double>();
  }
  return values;
}

}  // namespace

PixelScale PixelScale::read(const Json& processor, const PixelScale& otherwise, const std::string& where) {
  const PixelScale scale = {three_numbers(processor, "image_mean", otherwise.mean, where),
                            three_numbers(processor, "image_std", otherwise.std, where)};
  for (const double value : scale.std) {
    if (!(value > 0))
      throw Error(ErrorCode::kConfig, fmt::format("{}: image_std must be above 0, got {}", where, value));
  }
  return scale;
}

at::Tensor normalize_tiles(std::span<const Image> tiles, const PixelScale& scale) {
  const std::int64_t side = tiles.front().width, plane = side * side;
  std::array<std::array<float, 256>, 3> table{};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t value = 0; value < 256; ++value) {
      table[channel][value] =
          static_cast<float>((static_cast<double>(value) / 255.0 - scale.mean[channel]) / scale.std[channel]);
    }
  }
  at::Tensor pixels = at::empty({static_cast<std::int64_t>(tiles.size()), 3, side, side}, at::kFloat);
  float* out = pixels.mutable_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(tiles.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      const std::uint8_t* in = tiles[static_cast<std::size_t>(tile)].pixels.data();
      for (std::int64_t i = 0; i < plane; ++i) {
        for (std::int64_t channel = 0; channel < 3; ++channel) {
          out[(tile * 3 + channel) * plane + i] = table[static_cast<std::size_t>(channel)][in[i * 3 + channel]];
        }
      }
    }
  });
  return pixels;
}

bool wants_clip_pipeline(const ModelConfig& config, std::int64_t image_size) {
  if (config.image_pipeline != "clip") return false;
  if (image_size == kClipSize) return true;
  throw Error(
      ErrorCode::kConfig,
      fmt::format(
          "model.image_pipeline 'clip' makes pictures of {0}×{0} pixels; this checkpoint takes {1}×{1}; use 'native'",
          kClipSize, image_size));
}

Image clip_square(const Image& image, std::int64_t side) {
  const std::int64_t shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  const std::int64_t scaled = side * longer / shorter;
  if (scaled > 65535) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("a picture of {}×{} is too thin for the clip pipeline: its longer side "
                            "would become {} pixels, at most 65535 work; crop it",
                            image.width, image.height, scaled));
  }
  const bool wide = image.width >= image.height;
  const Image resized = resize(image, wide ? scaled : side, wide ? side : scaled, Resample::kBicubic);
  // CenterCrop rounds half to even, as Python's round() does.
  const auto offset = [&](std::int64_t size) {
    return static_cast<std::int64_t>(std::nearbyint(static_cast<double>(size - side) / 2.0));
  };
  return crop(resized, offset(resized.width), offset(resized.height), side, side);
}

std::int64_t square_side(const JsonView& view, const std::string& key, std::int64_t high) {
  if (!view.has(key) || !view.json().at(key).is_array()) return view.integer(key, 1, high);
  const Json& sides = view.json().at(key);
  if (sides.size() != 2 || sides[0] != sides[1] || !sides[0].is_number_integer())
    throw Error(ErrorCode::kUnsupported, fmt::format("{} is {}; supported: a square", view.at(key), sides.dump()));
  const Json single = {{key, sides[0]}};
  return JsonView(single, view.at(key)).integer(key, 1, high);
}

std::vector<std::string> split_at_marks(const std::string& prompt, std::size_t images) {
  std::vector<std::string> texts;
  std::size_t from = 0;
  for (std::size_t at = prompt.find(kMark); at != std::string::npos; at = prompt.find(kMark, from)) {
    texts.push_back(prompt.substr(from, at - from));
    from = at + kMark.size();
  }
  texts.push_back(prompt.substr(from));
  if (const std::size_t marks = texts.size() - 1; marks != 0 && marks != images) {
    throw Error(
        ErrorCode::kMismatch,
        fmt::format("the prompt has {} <image> mark{}, and there {} {} picture{}; give one mark per picture, or none",
                    marks, marks == 1 ? "" : "s", images == 1 ? "is" : "are", images, images == 1 ? "" : "s"));
  }
  return texts;
}

const Tokenizer& require_tokenizer(const Tokenizer* tokenizer) {
  if (tokenizer != nullptr) return *tokenizer;
  throw Error(ErrorCode::kNotFound,
              "this model was created without a tokenizer and can't read a prompt: for vision only, or from a folder "
              "without tokenizer.json and without vocab.json and merges.txt; add the files from the release");
}

void pad_prompts(std::span<const std::vector<TokenId>> prompts, ModelInputs& inputs) {
  std::size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const auto rows = static_cast<std::int64_t>(prompts.size());
  inputs.input_ids = at::zeros({rows, static_cast<std::int64_t>(longest)}, at::kLong);
  const bool padded =
      std::any_of(prompts.begin(), prompts.end(), [&](const auto& prompt) { return prompt.size() != longest; });
  if (padded) inputs.attention_mask = at::zeros({rows, static_cast<std::int64_t>(longest)}, at::kBool);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& prompt = prompts[static_cast<std::size_t>(row)];
    std::copy(prompt.begin(), prompt.end(), inputs.input_ids.select(0, row).mutable_data_ptr<std::int64_t>());
    if (padded) inputs.attention_mask.select(0, row).narrow(0, 0, static_cast<std::int64_t>(prompt.size())).fill_(true);
  }
}

}  // namespace vlmzoo
