// Attention in fp32 for processors with AVX2. LibTorch's kernel calls MKL for small products, which copies their
// factors every time; here a head's keys and values are laid out once. Softmax over blocks of keys with a running
// maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), so that the scores stay in the
// cache.
#include "attention_fp32.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_heads.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vlmzoo {

#if defined(__x86_64__)
namespace {

#define VLMZOO_AVX2 __attribute__((target("avx2,fma")))

constexpr std::int64_t kTile = 6;    // rows whose sums stay in registers
constexpr std::int64_t kPanel = 16;  // columns of a tile: two vectors
constexpr std::int64_t kKeys = 256;  // keys of a block: [kKeys, kPanel] of the values fill half a first-level cache

std::int64_t panels_of(std::int64_t columns) { return (columns + kPanel - 1) / kPanel; }

/// c [6, 16] (+)= a [6, depth] · b [depth, 16]. a's element (row, k) is at row · kRow + k · kStep.
template <std::int64_t kRow, std::int64_t kStep, bool kAdd>
VLMZOO_AVX2 void multiply_tile(const float* a, const float* b, std::int64_t depth, float* c, std::int64_t c_row) {
  __m256 sums[kTile][2];
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kTile; ++row) {
    sums[row][0] = kAdd ? _mm256_loadu_ps(c + row * c_row) : _mm256_setzero_ps();
    sums[row][1] = kAdd ? _mm256_loadu_ps(c + row * c_row + 8) : _mm256_setzero_ps();
  }
  for (std::int64_t k = 0; k < depth; ++k, a += kStep, b += kPanel) {
    const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (std::int64_t row = 0; row < kTile; ++row) {
      const __m256 factor = _mm256_broadcast_ss(a + row * kRow);
      sums[row][0] = _mm256_fmadd_ps(factor, low, sums[row][0]);
      sums[row][1] = _mm256_fmadd_ps(factor, high, sums[row][1]);
    }
  }
#pragma GCC unroll 6
  for (std::int64_t row = 0; row < kTile; ++row) {
    _mm256_storeu_ps(c + row * c_row, sums[row][0]);
    _mm256_storeu_ps(c + row * c_row + 8, sums[row][1]);
  }
}

/// 2^x for x <= 0 within 2e-7; 2^-126 below that.
VLMZOO_AVX2 inline __m256 power_of_two(__m256 x) {
  x = _mm256_max_ps(_mm256_set1_ps(-126.0F), x);  // in this order NaN stays NaN
  const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_sub_ps(x, whole);
  __m256 p = _mm256_set1_ps(1.5403530e-4F);  // of e^(r ln 2): (ln 2)^6 / 6!, (ln 2)^5 / 5!, …
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3333558e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(9.6181291e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.5504109e-2F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(2.4022651e-1F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(6.9314718e-1F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

VLMZOO_AVX2 float largest_of(__m256 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}
VLMZOO_AVX2 float sum_of(__m256 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

/// Of one query, over the blocks of keys so far.
struct Running {
  float largest = -INFINITY;  ///< score
  float shift = INFINITY;     ///< -largest · factor, as it was rounded: a weight is 2^(score · factor + shift)
  float sum = 0;              ///< of the weights
};

/// Scores of a block to weights, in place: [count], of which the first `seen` (at least one) are seen; zeros behind.
/// Returns the factor of what came before.
VLMZOO_AVX2 float soften(float* scores, std::int64_t seen, std::int64_t count, float factor, Running& running) {
  __m256 most = _mm256_set1_ps(-INFINITY);
  std::int64_t i = 0;
  for (; i + 8 <= seen; i += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(scores + i));
  float largest = std::max(running.largest, largest_of(most));
  for (; i < seen; ++i) largest = std::max(largest, scores[i]);
  const float moved = -largest * factor, before = std::exp2(moved - running.shift);
  std::fill(scores + seen, scores + count, -INFINITY);
  const __m256 factors = _mm256_set1_ps(factor), shift = _mm256_set1_ps(moved);
  __m256 sum = _mm256_setzero_ps();
  for (i = 0; i < count; i += 8) {
    const __m256 weight = power_of_two(_mm256_fmadd_ps(_mm256_loadu_ps(scores + i), factors, shift));
    sum = _mm256_add_ps(sum, weight);
    _mm256_storeu_ps(scores + i, weight);
  }
  std::fill(scores + seen, scores + count, 0.0F);
  running.largest = largest;
  running.shift = moved;
  running.sum = running.sum * before + sum_of(sum);
  return before;
}

class Fp32Head {
 public:
  static constexpr std::int64_t kQueries = 6 * kTile;

  Fp32Head(std::int64_t keys, std::int64_t width, bool causal)
      : width_(width),
        columns_(panels_of(width) * kPanel),
        padded_(panels_of(keys) * kPanel),
        causal_(causal),
        factor_(1.44269504F / std::sqrt(static_cast<float>(width))),
        keys_(static_cast<std::size_t>(padded_ * width)),
        values_(static_cast<std::size_t>(padded_ * columns_)),
        queries_(static_cast<std::size_t>(kQueries * width)),
        scores_(static_cast<std::size_t>(kQueries * kKeys)),
        mixed_(static_cast<std::size_t>(kQueries * columns_)) {}

  /// Keys in panels of 16, [width, 16] each; values in panels of 16 columns, [keys, 16] each. Zeros behind the last.
  void take(const HeadRows<float>& keys, const HeadRows<float>& values) {
    count_ = keys.count;
    for (std::int64_t n = 0; n < count_; ++n) {
      float* to = keys_.data() + n / kPanel * kPanel * width_ + n % kPanel;
      for (std::int64_t c = 0; c < width_; ++c) to[c * kPanel] = keys.data[n * keys.stride + c];
      for (std::int64_t c = 0; c < width_; c += kPanel) {
        std::copy_n(values.data + n * values.stride + c, std::min(kPanel, width_ - c),
                    values_.data() + c * padded_ + n * kPanel);
      }
    }
  }

  void run(const HeadRows<float>& queries, std::int64_t begin, std::int64_t end, float* to, std::int64_t stride) {
    for (std::int64_t first = begin; first < end; first += kQueries) {
      const std::int64_t rows = std::min(kQueries, end - first), tiles = (rows + kTile - 1) / kTile;
      std::fill(queries_.begin(), queries_.end(), 0.0F);
      for (std::int64_t r = 0; r < rows; ++r) {
        float* query = queries_.data() + r / kTile * kTile * width_ + r % kTile;
        for (std::int64_t c = 0; c < width_; ++c) query[c * kTile] = queries.data[(first + r) * queries.stride + c];
      }
      mix(rows, tiles, causal_ ? count_ - queries.count + first + 1 : count_);
      for (std::int64_t r = 0; r < rows; ++r) {
        const float inverse = 1.0F / running_[r].sum;
        for (std::int64_t c = 0; c < width_; ++c)
          to[(first + r) * stride + c] = mixed_[static_cast<std::size_t>(r * columns_ + c)] * inverse;
      }
    }
  }

 private:
  /// `seen` keys are seen by the first row, and one more by each that follows when causal.
  void mix(std::int64_t rows, std::int64_t tiles, std::int64_t seen) {
    std::fill(std::begin(running_), std::end(running_), Running());
    const std::int64_t most = causal_ ? seen + rows - 1 : seen;
    for (std::int64_t key = 0; key < most; key += kKeys) {
      const std::int64_t count = std::min(kKeys, panels_of(most - key) * kPanel);
      for (std::int64_t n = 0; n < count; n += kPanel) {
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          multiply_tile<1, kTile, false>(queries_.data() + tile * kTile * width_, keys_.data() + (key + n) * width_,
                                         width_, scores_.data() + tile * kTile * kKeys + n, kKeys);
        }
      }
      for (std::int64_t r = 0; r < rows; ++r)
        soften_row(r, std::clamp((causal_ ? seen + r : seen) - key, std::int64_t{0}, count), count, key == 0);
      for (std::int64_t c = 0; c < columns_; c += kPanel) {
        const auto multiply = key == 0 ? multiply_tile<kKeys, 1, false> : multiply_tile<kKeys, 1, true>;
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
          multiply(scores_.data() + tile * kTile * kKeys, values_.data() + c * padded_ + key * kPanel, count,
                   mixed_.data() + tile * kTile * columns_ + c, columns_);
        }
      }
    }
  }

  void soften_row(std::int64_t r, std::int64_t seen, std::int64_t count, bool first) {
    float* scores = scores_.data() + r * kKeys;
    if (seen == 0) {
      std::fill(scores, scores + count, 0.0F);
      return;
    }
    const float before = soften(scores, seen, count, factor_, running_[r]);
    if (first || before == 1.0F) return;
    float* mixed = mixed_.data() + r * columns_;
    for (std::int64_t c = 0; c < columns_; ++c) mixed[c] *= before;
  }

  std::int64_t width_, columns_, padded_;  // columns: width in whole panels; padded: keys in whole panels
  bool causal_;
  float factor_;  // of a score in the exponent of 2
  std::vector<float> keys_, values_, queries_, scores_, mixed_;
  Running running_[kQueries];
  std::int64_t count_ = 0;
};

}  // namespace

bool has_fp32_attention() { return cpu_features().fbgemm() && !cpu_features().avx512; }

at::Tensor fp32_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  return attention_by_heads<Fp32Head, float>(query, key, value, causal);
}
#else
bool has_fp32_attention() { return false; }
at::Tensor fp32_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) { return {}; }
#endif

}  // namespace vlmzoo
