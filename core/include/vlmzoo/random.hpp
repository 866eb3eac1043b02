#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace vlmzoo {

/// FNV-1a, 64 bits: a seed from a name.
constexpr std::uint64_t fnv1a(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  return hash;
}

/// Random numbers that are the same on every machine, which those of std:: distributions aren't: splitmix64 (Steele,
/// Lea, Flood 2014). The n-th number is a function of seed and n alone. Not for secrets. Arguments of one call are
/// evaluated in any order: draw into variables first.
class Random {
 public:
  /// What the state grows by with each number.
  static constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15ULL;

  explicit constexpr Random(std::uint64_t seed) : state_(seed) {}

  constexpr std::uint64_t next() {
    std::uint64_t z = state_ += kStep;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

  /// In [0, count); count from 1 to 2^32.
  constexpr std::uint64_t below(std::uint64_t count) { return ((next() >> 32) * count) >> 32; }
  /// In [low, high], both included.
  constexpr int between(int low, int high) {
    return low + static_cast<int>(below(static_cast<std::uint64_t>(std::int64_t{high} - low + 1)));
  }
  /// In [0, 1), with 53 bits.
  constexpr double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In [low, high).
  constexpr double between(double low, double high) { return low + (high - low) * unit(); }
  /// True with this probability.
  constexpr bool chance(double probability) { return unit() < probability; }
  /// One of a list.
  template <class List>
  constexpr const auto& pick(const List& list) {
    return list[static_cast<std::size_t>(below(std::size(list)))];
  }

 private:
  std::uint64_t state_;
};

}  // namespace vlmzoo
