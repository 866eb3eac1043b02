#include "bpe.hpp"

#include <algorithm>
#include <bit>
#include <functional>

#include "byte_level.hpp"

namespace vlmzoo {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};        // no neighbour; as an id: merged into the symbol before it
constexpr std::uint64_t kEmpty = ~std::uint64_t{0};       // ids are below kIdLimit, so no pair looks like this
constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;  // 2^64 / golden ratio: Fibonacci hashing

std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32 | right; }

}  // namespace

bool Vocabulary::add(std::string_view token, std::uint32_t id) {
  if (token.empty() || !tokens_[id].empty()) return false;
  tokens_[id] = token;
  return ids_.emplace(tokens_[id], id).second;
}

std::int64_t Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : std::int64_t{found->second};
}

Bpe::Bpe(const Vocabulary& vocabulary, const std::array<std::uint32_t, 256>& byte_ids,
         const std::vector<BpeMerge>& merges, bool ignore_merges)
    : vocabulary_(vocabulary), byte_ids_(byte_ids), ignore_merges_(ignore_merges) {
  const std::size_t size = std::bit_ceil(2 * merges.size() + 2);
  shift_ = 64 - std::countr_zero(size);
  slots_.assign(size, {kEmpty, 0, 0});
  for (std::uint32_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right, result] = merges[rank];
    const std::uint64_t pair = pair_of(left, right);
    std::size_t at = static_cast<std::size_t>(pair * kGolden >> shift_);
    while (slots_[at].pair != kEmpty && slots_[at].pair != pair) at = (at + 1) & (size - 1);
    slots_[at] = {pair, rank, result};  // of a pair listed twice, the reference keeps the last
  }
}

const Bpe::Slot* Bpe::find(std::uint32_t left, std::uint32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t at = static_cast<std::size_t>(pair * kGolden >> shift_);; at = (at + 1) & (slots_.size() - 1)) {
    if (slots_[at].pair == pair) return &slots_[at];
    if (slots_[at].pair == kEmpty) return nullptr;
  }
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    scratch.spelled.clear();
    for (const char byte : word) scratch.spelled += spelled_byte(static_cast<unsigned char>(byte));
    if (const std::int64_t id = vocabulary_.id_of(scratch.spelled); id >= 0) {
      out.push_back(id);
      return;
    }
  }
  auto& symbols = scratch.symbols;
  symbols.resize(word.size());
  for (std::uint32_t i = 0; i < symbols.size(); ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i == 0 ? kNone : i - 1, i + 1};
  }
  symbols.back().next = kNone;
  merge_all(scratch);
  for (std::uint32_t at = 0; at != kNone; at = symbols[at].next) out.push_back(symbols[at].id);
}

void Bpe::merge_all(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;
  queue.clear();
  const auto offer = [&](std::uint32_t at) {
    const Slot* slot = find(symbols[at].id, symbols[symbols[at].next].id);
    if (slot != nullptr) queue.push_back(std::uint64_t{slot->rank} << 32 | at);  // sorts by rank, then by place
    return slot != nullptr;
  };
  for (std::uint32_t i = 0; i + 1 < symbols.size(); ++i) offer(i);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());

  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const auto rank = static_cast<std::uint32_t>(queue.back() >> 32);
    const auto at = static_cast<std::uint32_t>(queue.back());
    queue.pop_back();
    auto& left = symbols[at];
    if (left.id == kNone || left.next == kNone) continue;
    auto& right = symbols[left.next];
    const Slot* slot = find(left.id, right.id);
    if (slot == nullptr || slot->rank != rank) continue;  // one of the two has merged with something else since

    left.id = slot->result;
    left.next = right.next;
    right.id = kNone;
    if (left.previous != kNone && offer(left.previous)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
    if (left.next == kNone) continue;
    symbols[left.next].previous = at;
    if (offer(at)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
  }
}

}  // namespace vlmzoo
