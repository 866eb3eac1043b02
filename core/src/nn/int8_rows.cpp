#include <algorithm>
#include <cmath>

#include "int8_product.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace vlmzoo {
namespace {

constexpr float kOutlier = 6.0F;     // LLM.int8's threshold, for rows of mean magnitude <= 1
constexpr float kSmallest = 1e-30F;  // largest magnitude of a row of zeros

}  // namespace

__attribute__((target("avx2"))) Magnitude magnitude(const float* x, std::int64_t count) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 largest = _mm256_setzero_ps(), sum = _mm256_setzero_ps();
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    const __m256 value = _mm256_and_ps(_mm256_loadu_ps(x + k), mask);
    largest = _mm256_max_ps(largest, value);
    sum = _mm256_add_ps(sum, value);
  }
  alignas(32) float maxima[8], sums[8];
  _mm256_store_ps(maxima, largest);
  _mm256_store_ps(sums, sum);
  Magnitude result;
  for (int lane = 0; lane < 8; ++lane) {
    result.largest = std::max(result.largest, maxima[lane]);
    result.mean += sums[lane];
  }
  for (; k < count; ++k) {
    result.largest = std::max(result.largest, std::abs(x[k]));
    result.mean += std::abs(x[k]);
  }
  result.mean /= static_cast<float>(count);
  return result;
}

__attribute__((target("avx2"))) void quantize_to_bytes(const float* x, std::int64_t count, float factor, int zero,
                                                       std::uint8_t* to) {
  const __m256 factors = _mm256_set1_ps(factor);
  const __m256i zeros = _mm256_set1_epi32(zero), low_bytes = _mm256_set1_epi32(0xff);
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), factors));
    const __m256i bytes = _mm256_and_si256(_mm256_add_epi32(whole, zeros), low_bytes);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + k), _mm_packus_epi16(words, words));
  }
  for (; k < count; ++k) to[k] = static_cast<std::uint8_t>(static_cast<int>(std::nearbyint(x[k] * factor)) + zero);
}

Inliers split_outliers(const float* row, std::int64_t in, std::vector<float>& buffer, Columns& outliers) {
  const Magnitude size = magnitude(row, in);
  const float threshold = kOutlier * std::max(1.0F, size.mean);
  const bool finite = std::isfinite(size.mean);
  if (size.largest < threshold) return {row, std::max(size.largest, kSmallest), finite};
  buffer.assign(row, row + in);
  for (std::int64_t k = 0; k < in; ++k) {
    if (std::abs(row[k]) < threshold) continue;
    outliers.push_back(k);
    buffer[static_cast<std::size_t>(k)] = 0;
  }
  return {buffer.data(), std::max(magnitude(buffer.data(), in).largest, kSmallest), finite};
}

}  // namespace vlmzoo
#endif
