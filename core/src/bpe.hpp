#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "vlmzoo/tokenizer.hpp"

namespace vlmzoo {

/// Ids stay below this, so that a file can't ask for a table of any size; the largest vocabularies have 2^18.
inline constexpr std::int64_t kIdLimit = std::int64_t{1} << 21;

/// Token texts by id and ids by text. Holes are "". Neither copied nor moved: the map points into the table.
class Vocabulary {
 public:
  /// `size` is the largest id + 1; `count` tokens are expected.
  Vocabulary(std::size_t size, std::size_t count) : tokens_(size) { ids_.reserve(count); }
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  /// False when the text or the id (below size()) is taken already.
  bool add(std::string_view token, std::uint32_t id);

  /// The id, or -1.
  std::int64_t id_of(std::string_view token) const;
  std::string_view token(std::size_t id) const { return tokens_[id]; }
  std::size_t size() const { return tokens_.size(); }
  std::size_t count() const { return ids_.size(); }

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, std::uint32_t> ids_;
};

/// One line of `model.merges`, as ids; its rank is its place.
struct BpeMerge {
  std::uint32_t left, right, result;
};

/// Byte-level byte-pair encoding (Sennrich et al., arXiv:1508.07909): the pair of the lowest rank merges first, the
/// leftmost of equals first. Immutable.
class Bpe {
 public:
  /// Memory that encode() uses again from word to word.
  struct Scratch {
    struct Symbol {
      std::uint32_t id, previous, next;
    };
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> queue;
    std::string spelled;
  };

  /// `byte_ids`: the token of every single byte. The vocabulary has to outlive this.
  Bpe(const Vocabulary& vocabulary, const std::array<std::uint32_t, 256>& byte_ids, const std::vector<BpeMerge>& merges,
      bool ignore_merges);

  /// Appends the ids of one word, in O(n log n) of its bytes. `word` has fewer than 2^31 bytes.
  void encode(std::string_view word, Scratch& scratch, std::vector<TokenId>& out) const;

 private:
  struct Slot {
    std::uint64_t pair;
    std::uint32_t rank, result;
  };

  const Slot* find(std::uint32_t left, std::uint32_t right) const;
  void merge_all(Scratch& scratch) const;

  const Vocabulary& vocabulary_;
  std::array<std::uint32_t, 256> byte_ids_;
  bool ignore_merges_;
  int shift_;
  std::vector<Slot> slots_;  // open addressing, at most half full
};

}  // namespace vlmzoo
