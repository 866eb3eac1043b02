#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "clock.hpp"
#include "compare/verification.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/model_folder.hpp"
#include "vlmzoo/preprocessing.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

/// The candidate, loaded, and what it is checked on.
struct Subject {
  const Session& session;
  const VerifyOptions& options;
  std::unique_ptr<Model> model;
  std::vector<Image> images;
  std::string question;
};

Check load(Subject& subject) {
  const ModelConfig& config = subject.session.config().model;
  const RoleSet roles = config.multimodal ? RoleSet::all() : head_roles(config);
  const auto start = Clock::now();
  subject.model = subject.session.create({.roles = roles});
  const double seconds = seconds_since(start);
  const std::uint64_t bytes = subject.model->parameters().bytes(subject.session.precision(), roles);
  return {"", CheckStatus::kPass,
          fmt::format("{} in {:.2f} s: weights {} in {}, {} still free", subject.model->info().architecture, seconds,
                      format_bytes(bytes), describe(subject.session.precision()), format_bytes(available_memory()))};
}

/// How far denormalised pixel values are from the 8-bit values they come from; exact zeros are padding behind the
/// normalisation and no pixels.
struct PixelStatistics {
  std::array<double, 3> mean{}, std{};  ///< of pixels, in [0, 1]
  double low = 1, high = 0;
  double worst = 0;  ///< largest distance from a whole number of 255ths, in 255ths
};

PixelStatistics pixel_statistics(const at::Tensor& pixel_values, const PixelScale& scale) {
  const std::int64_t plane = pixel_values.size(-1) * pixel_values.size(-2);
  const at::Tensor values = pixel_values.to(at::kCPU, at::kFloat).reshape({-1, 3, plane}).contiguous();
  const float* data = values.const_data_ptr<float>();
  PixelStatistics result;
  std::array<double, 3> sum{}, squares{}, pixels{};
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    if (data[i] == 0) continue;
    const auto channel = static_cast<std::size_t>(i / plane % 3);
    const double value = static_cast<double>(data[i]) * scale.std[channel] + scale.mean[channel];
    sum[channel] += value;
    squares[channel] += value * value;
    pixels[channel] += 1;
    result.low = std::min(result.low, value);
    result.high = std::max(result.high, value);
    result.worst = std::max(result.worst, std::abs(value * 255 - std::round(value * 255)));
  }
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const double n = std::max(1.0, pixels[channel]);
    result.mean[channel] = sum[channel] / n;
    result.std[channel] = std::sqrt(std::max(0.0, squares[channel] / n - result.mean[channel] * result.mean[channel]));
  }
  return result;
}

Check check_pixels(const Subject& subject) {
  const ModelConfig& config = subject.session.config().model;
  const ModelInfo& info = subject.model->info();
  const bool clip = config.image_pipeline == "clip";
  const Json processor = ModelFolder(config).image_processor();
  if (!clip && (!processor.contains("image_mean") || !processor.contains("image_std"))) {
    return {"", CheckStatus::kSkipped, "the checkpoint's folder states no image_mean and image_std to check against"};
  }
  const PixelScale scale = clip ? kClipScale : PixelScale::read(processor, kClipScale, config.pretrained_path);
  std::vector<std::int64_t> tiles;
  PixelStatistics all;
  for (const Image& image : subject.images) {
    const Request request{"", {image}};
    const ModelInputs inputs = subject.model->preprocess({&request, 1}, /*vision_only=*/true);
    const at::Tensor& pixels = inputs.pixel_values;
    if (pixels.dim() < 4 || pixels.size(-1) != info.image_size || pixels.size(-2) != info.image_size ||
        pixels.size(-3) != 3) {
      return {"", CheckStatus::kFail,
              fmt::format("pixel_values are [{}]; expected tiles of 3 × {} × {}", fmt::join(pixels.sizes(), ", "),
                          info.image_size, info.image_size)};
    }
    tiles.push_back(inputs.tiles_per_image.at(0));
    const PixelStatistics one = pixel_statistics(pixels, scale);
    all.worst = std::max(all.worst, one.worst);
    all.low = std::min(all.low, one.low);
    all.high = std::max(all.high, one.high);
    if (tiles.size() == 1) {
      all.mean = one.mean;
      all.std = one.std;
    }
  }
  const auto [fewest, most] = std::minmax_element(tiles.begin(), tiles.end());
  const bool tiles_fit = *fewest >= 1 && *most <= info.max_tiles + 1;  // one more for a thumbnail
  // fp32 keeps a 255th to 1e-5 of it after two roundings; another mean or std is off by tenths.
  const bool pixels_fit = all.worst < 0.01 && all.low > -0.01 && all.high < 1.01;
  return {
      "", tiles_fit && pixels_fit ? CheckStatus::kPass : CheckStatus::kFail,
      fmt::format(
          "{} picture{}: {} to {} tiles of {} × {} pixels (at most {} and a thumbnail); with image_mean [{:g}] and "
          "image_std [{:g}] of {} the values are 8-bit pixels to within {:.2g} of a step, from {:.3f} to "
          "{:.3f}; channels of the first: mean [{:.3f}], std [{:.3f}]",
          tiles.size(), tiles.size() == 1 ? "" : "s", *fewest, *most, info.image_size, info.image_size, info.max_tiles,
          fmt::join(scale.mean, ", "), fmt::join(scale.std, ", "), clip ? "the CLIP pipeline" : "the checkpoint",
          all.worst, all.low, all.high, fmt::join(all.mean, ", "), fmt::join(all.std, ", "))};
}

Check check_head(const Subject& subject) {
  bool fresh = false;
  const Head head = make_head(subject.model->info(), subject.session.config().model, &fresh);
  double worst_sum = 0, low = 1, high = 0;
  for (const Image& image : subject.images) {
    const Request request{"", {image}};
    const HeadOutput output = run_head(*subject.model, head, request);
    const at::Tensor chances = probabilities(output.logits).to(at::kCPU, at::kDouble);
    if (output.logits.sizes() != at::IntArrayRef({1, head.num_classes()}) ||
        output.embeddings.sizes() != at::IntArrayRef({1, subject.model->info().text_hidden_size})) {
      return {"", CheckStatus::kFail,
              fmt::format("logits [{}] and embeddings [{}]; expected [1, {}] and [1, {}]",
                          fmt::join(output.logits.sizes(), ", "), fmt::join(output.embeddings.sizes(), ", "),
                          head.num_classes(), subject.model->info().text_hidden_size)};
    }
    if (!at::isfinite(output.logits).all().item<bool>() || !at::isfinite(output.embeddings).all().item<bool>()) {
      return {"", CheckStatus::kFail,
              "logits or embeddings are not finite; weights damaged, or a precision too narrow"};
    }
    worst_sum = std::max(worst_sum, std::abs(chances.sum().item<double>() - 1));
    low = std::min(low, chances.min().item<double>());
    high = std::max(high, chances.max().item<double>());
  }
  const bool good = worst_sum < 1e-5 && low >= 0 && high <= 1;
  std::string evidence = fmt::format(
      "{} picture{}: finite logits [1, {}] and embeddings [1, {}]; probabilities from {:.3g} to {:.3g}, sums within "
      "{:.1g} of 1",
      subject.images.size(), subject.images.size() == 1 ? "" : "s", head.num_classes(),
      subject.model->info().text_hidden_size, low, high, worst_sum);
  if (fresh) evidence += "; but the head is freshly initialised (untrained): train one and name it in model.head";
  return {"", good && !fresh ? CheckStatus::kPass : CheckStatus::kFail, evidence};
}

Check check_text(const Subject& subject) {
  if (!subject.session.config().model.multimodal) {
    return {"", CheckStatus::kSkipped, "model.multimodal is false: there is no language model"};
  }
  if (subject.model->tokenizer() == nullptr) {
    return {"", CheckStatus::kSkipped, "the checkpoint's folder has no tokenizer"};
  }
  GenerationConfig config = subject.session.config().generation;
  config.temperature = 0;
  config.max_new_tokens = subject.options.max_new_tokens;
  const Request request{subject.question, {subject.images.front()}};
  const ModelInputs inputs = subject.model->preprocess({&request, 1});
  const Answer first = generate(*subject.model, inputs, config).at(0);
  const Answer second = generate(*subject.model, inputs, config).at(0);
  if (first.finish == FinishReason::kInterrupted || second.finish == FinishReason::kInterrupted) {
    throw Error(ErrorCode::kInterrupted, "interrupted");
  }
  const bool stops = first.finish == FinishReason::kStopToken || first.finish == FinishReason::kStopString;
  const bool empty = first.text.find_first_not_of(" \n\t") == std::string::npos;
  const bool same = first.ids == second.ids;
  return {"", stops && !empty && same ? CheckStatus::kPass : CheckStatus::kFail,
          fmt::format("“{}” → “{}”: {}, {} tokens, {}; greedy twice: {}", subject.question, first.text,
                      empty ? "EMPTY" : "not empty", first.ids.size(),
                      stops ? "stops by itself"
                            : fmt::format("DOES NOT STOP within {} tokens (--max-new-tokens)", config.max_new_tokens),
                      same ? "the same" : "DIFFERENT")};
}

}  // namespace

std::vector<Check> check_candidate(const Session& candidate, const Dataset& data, const VerifyOptions& options) {
  const at::NoGradGuard no_grad;
  Subject subject{candidate, options, nullptr, {}, options.question};
  const auto pictures = std::min<std::size_t>(data.samples.size(), static_cast<std::size_t>(options.pictures));
  for (std::size_t i = 0; i < pictures; ++i) subject.images.push_back(load_image(data.samples[i].image));
  if (subject.question.empty()) subject.question = data.samples.front().question;
  if (subject.question.empty()) subject.question = candidate.config().training.prompt;
  std::vector<Check> checks = {guarded("loads", [&] { return load(subject); })};
  const auto add = [&](const char* name, Check (*check)(const Subject&)) {
    checks.push_back(subject.model ? guarded(name, [&] { return check(subject); })
                                   : Check{name, CheckStatus::kSkipped, "the candidate doesn't load"});
  };
  add("image pipeline", check_pixels);
  add("head outputs", check_head);
  add("text generation", check_text);
  return checks;
}

}  // namespace vlmzoo::app
