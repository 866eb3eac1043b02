#include "training/batches.hpp"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/picture_stream.hpp"
#include "training/augmentation.hpp"
#include "training/region_targets.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/preprocessing.hpp"

namespace vlmzoo::app {
namespace {

constexpr const char* kMark = "<image>";
constexpr std::int64_t kIgnored = -100;

Random random_of(std::int64_t seed, const char* purpose, std::int64_t epoch, std::int64_t sample) {
  const std::uint64_t start = Random(static_cast<std::uint64_t>(seed) ^ fnv1a(purpose)).next();
  const std::uint64_t of_epoch = Random(start + static_cast<std::uint64_t>(epoch) * Random::kStep).next();
  return Random(Random(of_epoch + static_cast<std::uint64_t>(sample) * Random::kStep).next());
}

/// The beginning of `text` with at most `tokens` tokens, cut between them.
std::string cut(const Tokenizer& tokenizer, const std::string& text, std::int64_t tokens) {
  std::vector<TokenId> ids = tokenizer.encode(text);
  if (std::ssize(ids) <= tokens) return text;
  ids.resize(static_cast<std::size_t>(tokens));
  return tokenizer.decode(ids);
}

}  // namespace

BatchMaker::BatchMaker(const Model& model, const Dataset& data, BatchPlan plan)
    : model_(model), data_(data), plan_(std::move(plan)), answers_(data.samples.size()) {
  if (!plan_.text || !plan_.answers) return;
  const Tokenizer& tokenizer = require_tokenizer(model.tokenizer());
  for (std::size_t i = 0; i < data.samples.size(); ++i) {
    if (data.samples[i].answer.empty()) continue;
    answers_[i] = tokenizer.encode(data.samples[i].answer);
    const ModelInfo& info = model.info();
    if (info.answer_end >= 0) {
      answers_[i].push_back(info.answer_end);
    } else if (!info.stop_ids.empty()) {
      answers_[i].push_back(info.stop_ids.front());
    }
    if (std::ssize(answers_[i]) > plan_.max_length) {
      throw Error(
          ErrorCode::kMismatch,
          fmt::format("{}: the answer has {} tokens, training.max_length is {}; raise it, or shorten the answer",
                      data.samples[i].id, answers_[i].size(), plan_.max_length));
    }
  }
}

std::string BatchMaker::question_of(const Sample& sample) const {
  const std::string& question = sample.question.empty() ? plan_.prompt : sample.question;
  const auto index = static_cast<std::size_t>(&sample - data_.samples.data());
  const std::int64_t room = plan_.max_length - std::ssize(answers_[index]);
  std::string plain = question;  // pictures aren't text: their mark isn't counted and never cut
  if (const std::size_t at = plain.find(kMark); at != std::string::npos) {
    plain.erase(at, std::string_view(kMark).size());
    if (plain.starts_with('\n')) plain.erase(0, 1);
  }
  const std::string kept = cut(require_tokenizer(model_.tokenizer()), plain, room);
  return kept == plain && plain != question ? question : fmt::format("{}\n{}", kMark, kept);
}

Batch BatchMaker::make(std::span<const std::int64_t> samples, std::int64_t epoch) const {
  Batch batch;
  std::vector<Request> requests, region_requests;
  for (const std::int64_t index : samples) {
    const Sample& sample = data_.samples[static_cast<std::size_t>(index)];
    Random random = random_of(plan_.seed, "augmentation", epoch, index);
    const Augmentation augmentation = draw_augmentation(plan_.augmentations, random);
    Image image;
    try {
      image = naming(sample.image.string(), [&] { return load_image(sample.image); });
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInterrupted) throw;
      if (!plan_.skip_bad) throw Error(error.code(), fmt::format("{}; --skip-bad leaves it out", error.what()));
      batch.skipped.emplace(index, error.what());
      continue;
    }
    if (plan_.regions != nullptr) {
      const Image drawn = draw_regions(plan_.regions->at(static_cast<std::size_t>(index)), image.width, image.height);
      region_requests.push_back({"", {moved(drawn, augmentation)}});
    }
    if (!plan_.augmentations.empty()) image = augmented(image, augmentation);
    requests.push_back({plan_.text ? question_of(sample) : "", {}});
    requests.back().images.push_back(std::move(image));
    batch.samples.push_back(index);
  }
  if (requests.empty()) return batch;
  batch.inputs = model_.preprocess(requests, /*vision_only=*/!plan_.text);
  if (!region_requests.empty()) {
    batch.region_pixels = model_.preprocess(region_requests, /*vision_only=*/true).pixel_values;
  }
  std::vector<std::int64_t> labels;
  for (const std::int64_t index : batch.samples) labels.push_back(data_.samples[static_cast<std::size_t>(index)].label);
  batch.labels = at::tensor(labels, at::kLong);
  if (plan_.text) add_answers(batch);
  if (plan_.head != nullptr && plan_.head->needs_language()) {
    for (Request& request : requests) request.text = plan_.head->config().classifier.prompt;
    batch.head_inputs = model_.preprocess(requests);
  }
  return batch;
}

/// The answer's tokens, but its last, go in behind the prompt: each of them predicts the next.
void BatchMaker::add_answers(Batch& batch) const {
  const at::Tensor ids = batch.inputs.input_ids;
  const auto rows = ids.size(0);
  const at::Tensor mask = batch.inputs.attention_mask;
  std::int64_t longest = 0;
  std::vector<std::int64_t> lengths;
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& answer = answers_[static_cast<std::size_t>(batch.samples[static_cast<std::size_t>(row)])];
    batch.prompt_lengths.push_back(mask.defined() ? mask[row].sum().item<std::int64_t>() : ids.size(1));
    lengths.push_back(batch.prompt_lengths.back() + std::max<std::int64_t>(0, std::ssize(answer) - 1));
    longest = std::max(longest, lengths.back());
  }
  batch.inputs.input_ids = at::zeros({rows, longest}, at::kLong);
  batch.targets = at::full({rows, longest}, kIgnored, at::kLong);
  const at::Tensor valid = at::zeros({rows, longest}, at::kBool);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& answer = answers_[static_cast<std::size_t>(batch.samples[static_cast<std::size_t>(row)])];
    const std::int64_t prompt = batch.prompt_lengths[static_cast<std::size_t>(row)];
    const at::Tensor into = batch.inputs.input_ids[row];
    into.narrow(0, 0, prompt).copy_(ids[row].narrow(0, 0, prompt));
    valid[row].narrow(0, 0, lengths[static_cast<std::size_t>(row)]).fill_(true);
    if (answer.empty()) continue;
    const at::Tensor tokens = at::tensor(answer, at::kLong);
    into.narrow(0, prompt, tokens.size(0) - 1).copy_(tokens.narrow(0, 0, tokens.size(0) - 1));
    batch.targets[row].narrow(0, prompt - 1, tokens.size(0)).copy_(tokens);
  }
  batch.inputs.attention_mask = valid.all().item<bool>() ? at::Tensor() : valid;
}

StepTotals BatchMaker::totals(std::span<const std::int64_t> samples, const ClassificationLoss& loss) const {
  StepTotals totals;
  std::vector<std::int64_t> labels;
  for (const std::int64_t index : samples) {
    labels.push_back(data_.samples[static_cast<std::size_t>(index)].label);
    totals.answer_tokens += std::ssize(answers_[static_cast<std::size_t>(index)]);
  }
  totals.label_weight = label_weight(at::tensor(labels, at::kLong), loss);
  totals.pictures = std::ssize(samples);
  return totals;
}

std::vector<std::int64_t> epoch_order(std::int64_t n, std::int64_t seed, std::int64_t epoch) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  Random random = random_of(seed, "order", epoch, 0);
  for (std::int64_t i = n - 1; i > 0; --i) {
    const auto other = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(i) + 1));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(other)]);
  }
  return order;
}

}  // namespace vlmzoo::app
