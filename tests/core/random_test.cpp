#include "vlmzoo/random.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <vector>

using vlmzoo::Random;

TEST_CASE("random numbers are those of splitmix64") {
  // The first outputs of the reference implementation (https://prng.di.unimi.it/splitmix64.c) for these seeds.
  Random zero(0), other(1234567);
  CHECK(zero.next() == 0xE220A8397B1DCDAFULL);
  CHECK(zero.next() == 0x6E789E6AA1B965F4ULL);
  CHECK(other.next() == 6457827717110365317ULL);
  CHECK(other.next() == 3203168211198807973ULL);
  CHECK(vlmzoo::fnv1a("") == 0xCBF29CE484222325ULL);
  CHECK(vlmzoo::fnv1a("foobar") == 0x85944171F73967E8ULL);
}

TEST_CASE("ranges hold their ends and nothing beyond, each value about as often") {
  Random random(1);
  std::array<int, 6> counts{};
  for (int i = 0; i < 6000; ++i) ++counts.at(static_cast<std::size_t>(random.between(-2, 3) + 2));
  for (const int count : counts) CHECK(std::abs(count - 1000) < 120);  // four standard deviations
  for (int i = 0; i < 1000; ++i) {
    const double unit = random.unit(), between = random.between(2.0, 2.5);
    REQUIRE((unit >= 0 && unit < 1));
    REQUIRE((between >= 2 && between < 2.5));
    REQUIRE(random.below(1) == 0);
  }
  CHECK(random.between(7, 7) == 7);
  const std::vector<int> list = {5};
  CHECK(random.pick(list) == 5);
}
