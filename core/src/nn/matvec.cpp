#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

#include "linear_kernel.hpp"
#include "own_part_first.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vlmzoo {
namespace {

constexpr std::int64_t kMatvecBlock = 256 * 1024;  // bytes of weights that a thread takes at once

/// Dot products of one weight row with `rows` activations rows of `in` numbers: y[m] for m < rows.
template <class Weight, class Activation = float>
using RowDot = void (*)(const Weight* w, const Activation* x, std::int64_t in, std::int64_t rows, float* y);

template <class Weight>
void dot_portable(const Weight* w, const float* x, std::int64_t in, std::int64_t rows, float* y) {
  for (std::int64_t m = 0; m < rows; ++m) {
    float sums[8] = {};  // independent sums, so that the compiler may use vectors without reordering additions
    std::int64_t k = 0;
    for (; k + 8 <= in; k += 8) {
      for (std::int64_t lane = 0; lane < 8; ++lane)
        sums[lane] += static_cast<float>(w[k + lane]) * x[m * in + k + lane];
    }
    float sum = 0;
    for (const float part : sums) sum += part;
    for (; k < in; ++k) sum += static_cast<float>(w[k]) * x[m * in + k];
    y[m] = sum;
  }
}

#if defined(__x86_64__)
struct Avx2 {
  static constexpr std::int64_t kLanes = 8;
  __attribute__((target("avx2,fma,f16c"))) static __m256 load(const c10::BFloat16* w) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  __attribute__((target("avx2,fma,f16c"))) static __m256 load(const c10::Half* w) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
  }
  __attribute__((target("avx2,fma,f16c"))) static __m256 load(const float* w) { return _mm256_loadu_ps(w); }
};

template <class Weight>
__attribute__((target("avx2,fma,f16c"))) void dot_avx2(const Weight* w, const float* x, std::int64_t in,
                                                       std::int64_t rows, float* y) {
  for (std::int64_t m = 0; m < rows; ++m) {
    const float* row = x + m * in;
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    std::int64_t k = 0;
    for (; k + 32 <= in; k += 32) {
      for (int part = 0; part < 4; ++part) {
        sums[part] = _mm256_fmadd_ps(Avx2::load(w + k + 8 * part), _mm256_loadu_ps(row + k + 8 * part), sums[part]);
      }
    }
    const __m256 all = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    float sum = _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
    for (; k < in; ++k) sum += static_cast<float>(w[k]) * row[k];
    y[m] = sum;
  }
}

struct Avx512 {
  __attribute__((target("avx512f,avx512bw"))) static __m512 load(const c10::BFloat16* w) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  __attribute__((target("avx512f,avx512bw"))) static __m512 load(const c10::Half* w) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
  }
  __attribute__((target("avx512f,avx512bw"))) static __m512 load(const float* w) { return _mm512_loadu_ps(w); }
};

template <class Weight>
__attribute__((target("avx512f,avx512bw"))) void dot_avx512(const Weight* w, const float* x, std::int64_t in,
                                                            std::int64_t rows, float* y) {
  for (std::int64_t m = 0; m < rows; ++m) {
    const float* row = x + m * in;
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    std::int64_t k = 0;
    for (; k + 64 <= in; k += 64) {
      for (int part = 0; part < 4; ++part) {
        sums[part] = _mm512_fmadd_ps(Avx512::load(w + k + 16 * part), _mm512_loadu_ps(row + k + 16 * part), sums[part]);
      }
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    for (; k < in; ++k) sum += static_cast<float>(w[k]) * row[k];
    y[m] = sum;
  }
}

__attribute__((target("avx512f,avx512bw,avx512bf16"))) __m512bh load_bf16(const c10::BFloat16* p) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p));
}

/// Both factors in bf16: half the activations to keep in the first-level cache, which long rows would overflow.
__attribute__((target("avx512f,avx512bw,avx512bf16"))) void dot_bf16(const c10::BFloat16* w, const c10::BFloat16* x,
                                                                     std::int64_t in, std::int64_t rows, float* y) {
  for (std::int64_t m = 0; m < rows; ++m) {
    const c10::BFloat16* row = x + m * in;
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    std::int64_t k = 0;
    for (; k + 128 <= in; k += 128) {
      for (int part = 0; part < 4; ++part)
        sums[part] = _mm512_dpbf16_ps(sums[part], load_bf16(w + k + 32 * part), load_bf16(row + k + 32 * part));
    }
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    for (; k < in; ++k) sum += static_cast<float>(w[k]) * static_cast<float>(row[k]);
    y[m] = sum;
  }
}
#endif

template <class Weight>
RowDot<Weight> best_dot() {
#if defined(__x86_64__)
  if (cpu_features().avx512) return dot_avx512<Weight>;
  if (cpu_features().fbgemm()) return dot_avx2<Weight>;
#endif
  return dot_portable<Weight>;
}

template <class Weight, class Activation>
void matvec_with(RowDot<Weight, Activation> dot, const at::Tensor& weight, const at::Tensor& x, at::Tensor& y) {
  const std::int64_t out = weight.size(0), in = weight.size(1), rows = x.size(0);
  const Weight* w = weight.const_data_ptr<Weight>();
  const Activation* activations = x.const_data_ptr<Activation>();
  float* result = y.mutable_data_ptr<float>();
  const std::int64_t block = std::max<std::int64_t>(1, kMatvecBlock / static_cast<std::int64_t>(sizeof(Weight)) / in);
  own_part_first(out, block, [&](std::int64_t begin, std::int64_t end) {
    float sums[kMatvecRows];
    for (std::int64_t n = begin; n < end; ++n) {
      dot(w + n * in, activations, in, rows, sums);
      for (std::int64_t m = 0; m < rows; ++m) result[m * out + n] = sums[m];
    }
  });
}

}  // namespace

void matvec(const at::Tensor& weight, const at::Tensor& x, at::Tensor& y) {
#if defined(__x86_64__)
  if (weight.scalar_type() == at::kBFloat16 && x.scalar_type() == at::kBFloat16 && cpu_features().avx512_bf16)
    return matvec_with(dot_bf16, weight, x, y);
#endif
  const at::Tensor wide = x.to(at::kFloat);
  switch (weight.scalar_type()) {
    case at::kBFloat16:
      return matvec_with(best_dot<c10::BFloat16>(), weight, wide, y);
    case at::kHalf:
      return matvec_with(best_dot<c10::Half>(), weight, wide, y);
    default:
      return matvec_with(best_dot<float>(), weight, wide, y);
  }
}

}  // namespace vlmzoo
