// Attention in bf16 for processors with avx512_bf16. LibTorch's kernel calls MKL for small products, which is slow
// there on processors of other makers than Intel; oneDNN's blocks (brgemm) take half the time. Blocks have fixed sizes,
// since LibTorch keeps a compiled kernel for each size it has seen.
#include "attention_bf16.hpp"

#include <ATen/native/CPUBlas.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "attention_heads.hpp"
#include "linear_kernel.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vlmzoo {

#if defined(__x86_64__)
namespace {

#define VLMZOO_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

constexpr std::int64_t kKeys = 64, kLanes = 16;

VLMZOO_AVX512 __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>((1U << std::clamp<std::int64_t>(count, 0, kLanes)) - 1);
}

/// 2^x for x <= 0 within 3e-6, zero far below.
VLMZOO_AVX512 __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150.0F), x);  // in this order NaN stays NaN
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.3333558e-3F);  // of e^(r ln 2): (ln 2)^5 / 5!, (ln 2)^4 / 4!, …
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.6181291e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.5504109e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.4022651e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314718e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, whole);
}

/// weights = e^(scale · (scores - largest)) of the first `seen` of `count` (a multiple of kKeys); zero behind. Returns
/// one over their sum.
VLMZOO_AVX512 float soften(const float* scores, std::int64_t seen, std::int64_t count, float scale,
                           std::uint16_t* weights) {
  __m512 largest = _mm512_loadu_ps(scores);
  largest = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), first_lanes(seen), largest);
  std::int64_t i = kLanes;
  for (; i + kLanes <= seen; i += kLanes) largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  if (i < seen) largest = _mm512_mask_max_ps(largest, first_lanes(seen - i), largest, _mm512_loadu_ps(scores + i));

  constexpr float kLog2E = 1.44269504F;
  const __m512 factor = _mm512_set1_ps(scale * kLog2E),
               shift = _mm512_set1_ps(-_mm512_reduce_max_ps(largest) * scale * kLog2E);
  __m512 sum = _mm512_setzero_ps();
  for (i = 0; i < count; i += kLanes) {
    const __mmask16 lanes = first_lanes(seen - i);
    const __m512 scaled = _mm512_fmadd_ps(_mm512_loadu_ps(scores + i), factor, shift);
    const __m512 weight = _mm512_maskz_mov_ps(lanes, power_of_two(scaled));
    sum = _mm512_add_ps(sum, weight);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight)));
  }
  return 1.0F / _mm512_reduce_add_ps(sum);
}

/// row · factor as bf16.
VLMZOO_AVX512 void store_row(const float* row, std::int64_t width, float factor, c10::BFloat16* to) {
  for (std::int64_t c = 0; c < width; c += kLanes) {
    const __mmask16 lanes = first_lanes(width - c);
    const __m512 values = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, row + c), _mm512_set1_ps(factor));
    _mm256_mask_storeu_epi16(to + c, lanes, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
  }
}

using Rows = HeadRows<c10::BFloat16>;

/// Panels of kKeys keys, each [width / 2, kKeys] pairs of neighbouring numbers; zeros behind the last key.
VLMZOO_AVX512 void pack_keys(const Rows& keys, std::uint32_t* to) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i offsets = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(keys.stride)));
  for (std::int64_t panel = 0; panel < keys.count; panel += kKeys) {
    for (std::int64_t pair = 0; pair < keys.width / 2; ++pair) {
      for (std::int64_t first = panel; first < panel + kKeys; first += kLanes, to += kLanes) {
        const __m512i found =
            _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), first_lanes(keys.count - first), offsets,
                                        keys.data + first * keys.stride + 2 * pair, sizeof(c10::BFloat16));
        _mm512_storeu_si512(to, found);
      }
    }
  }
}

/// Pairs of rows, [count / 2, width] pairs of numbers below each other; zeros behind the last row.
void pack_values(const Rows& values, std::int64_t count, std::uint32_t* to) {
  const auto row = [&](std::int64_t n) { return values.data + std::min(n, values.count - 1) * values.stride; };
  for (std::int64_t n = 0; n < count; n += 2, to += values.width) {
    const c10::BFloat16 *upper = row(n), *lower = row(n + 1);
    const std::uint32_t upper_mask = n < values.count ? 0xffff : 0, lower_mask = n + 1 < values.count ? 0xffff : 0;
    for (std::int64_t c = 0; c < values.width; ++c) to[c] = (upper[c].x & upper_mask) | (lower[c].x & lower_mask) << 16;
  }
}

class Bf16Head {
 public:
  static constexpr std::int64_t kQueries = 32;

  Bf16Head(std::int64_t keys, std::int64_t width, bool causal)
      : padded_((keys + kKeys - 1) / kKeys * kKeys),
        // One of few sizes, for few compiled kernels; not a power of two, whose rows would share cache lines.
        row_(static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(padded_))) + kKeys),
        width_(width),
        causal_(causal),
        scale_(1.0F / std::sqrt(static_cast<float>(width))),
        keys_(static_cast<std::size_t>(padded_ * width / 2)),
        values_(static_cast<std::size_t>(padded_ * width / 2)),
        queries_(static_cast<std::size_t>(kQueries * width)),
        weights_(static_cast<std::size_t>(kQueries * row_)),
        scores_(static_cast<std::size_t>(kQueries * row_)),
        sums_(static_cast<std::size_t>(kQueries * width)) {}

  ~Bf16Head() { at::native::cpublas::brgemm_release(); }
  Bf16Head(const Bf16Head&) = delete;
  Bf16Head& operator=(const Bf16Head&) = delete;

  void take(const Rows& keys, const Rows& values) {
    pack_keys(keys, keys_.data());
    pack_values(values, padded_, values_.data());
    count_ = keys.count;
  }

  /// Rows [begin, end) of the result, row t to `to` + t · stride.
  void run(const Rows& queries, std::int64_t begin, std::int64_t end, c10::BFloat16* to, std::int64_t stride) {
    for (std::int64_t first = begin; first < end; first += kQueries) {
      const std::int64_t rows = std::min(kQueries, end - first);
      for (std::int64_t r = 0; r < rows; ++r)
        std::copy_n(queries.data + (first + r) * queries.stride, width_, queries_.data() + r * width_);
      block(rows, causal_ ? count_ - queries.count + first + 1 : count_, to + first * stride, stride);
    }
  }

 private:
  /// `seen` keys are seen by the first row, and one more by each that follows when causal.
  void block(std::int64_t rows, std::int64_t seen, c10::BFloat16* to, std::int64_t stride) {
    const std::int64_t most = causal_ ? seen + rows - 1 : seen, padded = (most + kKeys - 1) / kKeys * kKeys;
    for (std::int64_t n = 0; n < padded; n += kKeys) {
      at::native::cpublas::brgemm(kQueries, kKeys, width_, width_, kKeys, row_, /*add_C=*/false, queries_.data(),
                                  pairs(keys_, n * width_ / 2), scores_.data() + n);
    }
    float inverses[kQueries];
    for (std::int64_t r = 0; r < rows; ++r) {
      inverses[r] = soften(scores_.data() + r * row_, causal_ ? seen + r : seen, padded, scale_,
                           reinterpret_cast<std::uint16_t*>(weights_.data() + r * row_));
    }
    for (std::int64_t n = 0; n < padded; n += kKeys) {
      at::native::cpublas::brgemm(kQueries, width_, kKeys, row_, width_, width_, /*add_C=*/n > 0, weights_.data() + n,
                                  pairs(values_, n / 2 * width_), sums_.data());
    }
    for (std::int64_t r = 0; r < rows; ++r) store_row(sums_.data() + r * width_, width_, inverses[r], to + r * stride);
  }

  static const c10::BFloat16* pairs(const std::vector<std::uint32_t>& packed, std::int64_t at) {
    return reinterpret_cast<const c10::BFloat16*>(packed.data() + at);
  }

  std::int64_t padded_, row_, width_;
  bool causal_;
  float scale_;
  std::vector<std::uint32_t> keys_, values_;
  std::vector<c10::BFloat16> queries_, weights_;
  std::vector<float> scores_, sums_;
  std::int64_t count_ = 0;
};

}  // namespace

bool has_bf16_attention() { return has_bf16_products() && cpu_features().avx512_bf16 && !cpu_features().amx_bf16; }

at::Tensor bf16_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, bool causal) {
  return attention_by_heads<Bf16Head, c10::BFloat16>(query, key, value, causal);
}
#else
bool has_bf16_attention() { return false; }
at::Tensor bf16_attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) { return {}; }
#endif

}  // namespace vlmzoo
