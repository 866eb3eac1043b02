#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include "vlmzoo/error.hpp"
#include "vlmzoo/nn/layers.hpp"

namespace vlmzoo {

PackedTokens pack_tokens(const at::Tensor& input_ids, const at::Tensor& attention_mask, const KvCache& cache) {
  PackedTokens tokens;
  tokens.batch = input_ids.size(0);
  tokens.width = input_ids.size(1);
  if (tokens.batch != cache.batch()) {
    throw Error(ErrorCode::kMismatch, fmt::format("{} prompts for a cache of {}", tokens.batch, cache.batch()));
  }
  const at::Tensor ids = input_ids.reshape({-1});
  if (attention_mask.defined()) {
    tokens.index = attention_mask.reshape({-1}).nonzero().squeeze(1);
    tokens.ids = ids.index_select(0, tokens.index);
    const at::Tensor counts = attention_mask.sum(1).to(at::kLong).cpu();
    for (std::int64_t b = 0; b < tokens.batch; ++b) tokens.lengths.push_back(counts.const_data_ptr<std::int64_t>()[b]);
  } else {
    tokens.ids = ids;
    tokens.lengths.assign(static_cast<std::size_t>(tokens.batch), tokens.width);
  }
  std::vector<at::Tensor> positions;
  for (std::int64_t b = 0; b < tokens.batch; ++b) {
    const std::int64_t begin = cache.length(b);
    positions.push_back(at::arange(begin, begin + tokens.lengths[static_cast<std::size_t>(b)], ids.options()));
  }
  tokens.positions = positions.size() == 1 ? positions.front() : at::cat(positions, 0);
  return tokens;
}

at::Tensor unpack_rows(const at::Tensor& rows, const PackedTokens& tokens) {
  const std::int64_t width = rows.size(1);
  if (!tokens.index.defined()) return rows.view({tokens.batch, tokens.width, width});
  const at::Tensor all = at::zeros({tokens.batch * tokens.width, width}, rows.options());
  return all.index_copy(0, tokens.index, rows).view({tokens.batch, tokens.width, width});
}

at::Tensor last_rows(const at::Tensor& rows, const PackedTokens& tokens, std::int64_t keep) {
  std::vector<at::Tensor> parts;
  std::int64_t end = 0;
  for (const std::int64_t length : tokens.lengths) {
    end += length;
    const std::int64_t count = std::min(keep, length);
    if (count < keep) parts.push_back(at::zeros({keep - count, rows.size(1)}, rows.options()));
    if (count > 0) parts.push_back(rows.narrow(0, end - count, count));
  }
  return (parts.size() == 1 ? parts.front() : at::cat(parts, 0)).view({tokens.batch, keep, rows.size(1)});
}

}  // namespace vlmzoo
