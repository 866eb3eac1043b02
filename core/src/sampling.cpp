#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_set>
#include <vector>

#include "vlmzoo/error.hpp"
#include "vlmzoo/generation.hpp"

namespace vlmzoo {
namespace {

struct Candidate {
  float score;
  TokenId id;
};

TokenId argmax(std::span<const float> scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

/// A token seen before loses score: divided when positive, multiplied when negative (CTRL, as in transformers).
void penalize(std::vector<float>& scores, std::span<const TokenId> seen, double penalty) {
  const std::unordered_set<TokenId> unique(seen.begin(), seen.end());
  for (const TokenId id : unique) {
    if (id < 0 || id >= static_cast<TokenId>(scores.size())) continue;
    float& score = scores[static_cast<std::size_t>(id)];
    score = static_cast<float>(score > 0 ? score / penalty : score * penalty);
  }
}

/// Best first. Ties with the last one stay, as in transformers: 16-bit logits have many.
std::vector<Candidate> top_k(const std::vector<float>& scores, std::int64_t k) {
  std::vector<Candidate> all(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) all[i] = {scores[i], static_cast<TokenId>(i)};
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.id < b.id;
  };
  if (k > 0 && k < static_cast<std::int64_t>(all.size())) {
    std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), better);
    const float last = all[static_cast<std::size_t>(k - 1)].score;
    all.erase(std::remove_if(all.begin() + k, all.end(), [&](const Candidate& other) { return other.score < last; }),
              all.end());
  }
  std::sort(all.begin(), all.end(), better);
  return all;
}

}  // namespace

TokenId sample(const at::Tensor& logits, const GenerationConfig& config, std::span<const TokenId> seen,
               double uniform) {
  const at::Tensor flat = logits.to(at::kCPU, at::kFloat).contiguous();
  const std::span<const float> raw(flat.const_data_ptr<float>(), static_cast<std::size_t>(flat.numel()));
  if (!std::isfinite(std::accumulate(raw.begin(), raw.end(), 0.0))) {
    throw Error(ErrorCode::kInternal,
                "the model's logits are not finite; the weights may be damaged, or a precision too narrow for them");
  }
  const bool penalized = config.repetition_penalty != 1.0;
  if (config.temperature == 0 && !penalized) return argmax(raw);
  std::vector<float> scores(raw.begin(), raw.end());
  if (penalized) penalize(scores, seen, config.repetition_penalty);
  if (config.temperature == 0) return argmax(scores);
  const std::vector<Candidate> candidates = top_k(scores, config.top_k);
  std::vector<double> weights(candidates.size());
  double total = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    total += weights[i] =
        std::exp((static_cast<double>(candidates[i].score) - candidates.front().score) / config.temperature);
  }
  // top-p keeps a token while the probability of the better ones is below it; the best one always stays.
  double kept = 0;
  std::size_t count = 0;
  while (count < candidates.size() && (count == 0 || kept < config.top_p * total)) kept += weights[count++];
  double left = uniform * kept;
  for (std::size_t i = 0; i < count; ++i) {
    left -= weights[i];
    if (left < 0) return candidates[i].id;
  }
  return candidates[count - 1].id;
}

}  // namespace vlmzoo
