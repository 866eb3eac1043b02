#include "zoo/probe.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/max.h>
#include <fmt/format.h>

#include <tuple>

#include "cache.hpp"
#include "clock.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/run_head.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::int64_t kAnswerTokens = 4;

void require_finite(const at::Tensor& values, const char* what, const Session& session) {
  if (at::isfinite(values).all().item<bool>()) return;
  throw Error(
      ErrorCode::kInternal,
      fmt::format("{}: the {} of the probe picture are not finite; the weights may be damaged, or {} too narrow "
                  "for them",
                  session.config().model.pretrained_path, what, describe(session.precision())));
}

void classify(const Model& model, const Session& session, ProbeResult& result) {
  bool fresh = false;
  const Head head = make_head(model.info(), session.config().model, &fresh);
  result.head_trained = !fresh;
  const Request request{"", {probe_picture()}};
  const auto start = Clock::now();
  const at::Tensor logits = run_head(model, head, request).logits;
  const at::Tensor all = probabilities(logits, head.config().temperature)[0].cpu();
  result.latency_ms = 1000 * seconds_since(start);
  require_finite(all, "class probabilities", session);
  const auto [probability, index] = at::max(all, /*dim=*/0);
  result.probability = probability.item<double>();
  result.label = head.config().class_names[static_cast<std::size_t>(index.item<std::int64_t>())];
}

void answer(const Model& model, const Session& session, ProbeResult& result) {
  const Request request{"What is in the picture?", {probe_picture()}};
  GenerationConfig config;
  config.max_new_tokens = kAnswerTokens;
  config.temperature = 0;
  const OnPrefill check = [&](const ImageFeatures*, const TextOutput& output) {
    require_finite(output.logits, "logits", session);
  };
  result.answer_ids = generate(model, model.preprocess({&request, 1}), config, {}, nullptr, check).at(0).ids;
}

}  // namespace

Image probe_picture() {
  Image picture{640, 400, {}};
  for (std::int64_t y = 0; y < picture.height; ++y) {
    for (std::int64_t x = 0; x < picture.width; ++x) {
      const bool sheet = x > 180 && x < 460 && y > 60 && y < 340, line = sheet && y % 40 < 8 && x > 210 && x < 430;
      const std::int64_t disc = (x - 540) * (x - 540) + (y - 90) * (y - 90);
      const auto put = [&](std::int64_t value) { picture.pixels.push_back(static_cast<std::uint8_t>(value)); };
      put(line ? 40 : sheet ? 240 : disc < 2500 ? 220 : x * 255 / 640);
      put(line ? 40 : sheet ? 240 : disc < 2500 ? 60 : y * 255 / 400);
      put(line ? 60 : sheet ? 230 : disc < 2500 ? 40 : 128);
    }
  }
  return picture;
}

ProbeResult probe(const Session& session) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = session.config().model;
  ProbeResult result;
  const auto start = Clock::now();
  const auto model = session.create({.roles = config.multimodal ? RoleSet::all() : head_roles(config)});
  result.load_s = seconds_since(start);
  result.model_type = model->info().model_type;
  result.fingerprint = model_fingerprint(session);
  result.precision = session.precision();
  classify(*model, session, result);
  if (config.multimodal) answer(*model, session, result);
  return result;
}

OrderedJson to_json(const ProbeResult& result) {
  return {{"model_type", result.model_type},        {"model_fingerprint", result.fingerprint},
          {"precision", to_json(result.precision)}, {"label", result.label},
          {"probability", result.probability},      {"head_trained", result.head_trained},
          {"answer_ids", result.answer_ids},        {"load_s", result.load_s},
          {"latency_ms", result.latency_ms}};
}

}  // namespace vlmzoo::app
