#include "rows_kernels.hpp"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "../target_clones.hpp"

namespace vlmzoo {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::int64_t kGrain = 16384;  // elements worth a thread

/// Rounds to nearest even as c10's conversion does, without its branch, which would keep loops from becoming vectors.
template <class T>
inline __attribute__((always_inline)) T narrowed(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return T(static_cast<std::uint16_t>(nan ? 0x7fc0 : rounded), T::from_bits());
  }
}

template <class T>
inline __attribute__((always_inline)) void rms_norm_row(const T* x, const T* weight, T* y, std::int64_t n, float eps) {
  float sums[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = static_cast<float>(x[i + lane]);
      sums[lane] += value * value;
    }
  }
  float sum = 0;
  for (const float part : sums) sum += part;
  for (; i < n; ++i) sum += static_cast<float>(x[i]) * static_cast<float>(x[i]);
  const float scale = 1.0F / std::sqrt(sum / static_cast<float>(n) + eps);
  for (i = 0; i < n; ++i) y[i] = narrowed<T>(static_cast<float>(x[i]) * scale * static_cast<float>(weight[i]));
}
VLMZOO_CLONES void rms_norm_row(const float* x, const float* w, float* y, std::int64_t n, float eps) {
  rms_norm_row<float>(x, w, y, n, eps);
}
VLMZOO_CLONES void rms_norm_row(const c10::BFloat16* x, const c10::BFloat16* w, c10::BFloat16* y, std::int64_t n,
                                float eps) {
  rms_norm_row<c10::BFloat16>(x, w, y, n, eps);
}

template <class T>
inline __attribute__((always_inline)) void rotate_head(const T* x, const float* cos, const float* sin, T* y,
                                                       std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = static_cast<float>(x[i]), b = static_cast<float>(x[i + half]);
    y[i] = narrowed<T>(a * cos[i] - b * sin[i]);
    y[i + half] = narrowed<T>(b * cos[i] + a * sin[i]);
  }
}
VLMZOO_CLONES void rotate_head(const float* x, const float* cos, const float* sin, float* y, std::int64_t half) {
  rotate_head<float>(x, cos, sin, y, half);
}
VLMZOO_CLONES void rotate_head(const c10::BFloat16* x, const float* cos, const float* sin, c10::BFloat16* y,
                               std::int64_t half) {
  rotate_head<c10::BFloat16>(x, cos, sin, y, half);
}

/// e^x within 2 units in the last place, in a form that compilers turn into vectors (the C library's is a call).
/// Source: Cephes' expf: x = n·ln 2 + r, then a polynomial in r.
inline __attribute__((always_inline)) float exponential(float x) {
  x = std::min(std::max(x, -87.0F), 88.72F);
  constexpr float kRound = 12582912.0F;  // 1.5·2²³: adding it rounds to a whole number
  const float n = (x * 1.44269504F + kRound) - kRound;
  const float r = x - n * 0.693359375F + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  return p * std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
}

template <class T>
inline __attribute__((always_inline)) void swiglu_row(const T* gate, const T* up, T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float value = static_cast<float>(gate[i]);
    y[i] = narrowed<T>(value / (1.0F + exponential(-value)) * static_cast<float>(up[i]));
  }
}
VLMZOO_CLONES void swiglu_row(const float* gate, const float* up, float* y, std::int64_t n) {
  swiglu_row<float>(gate, up, y, n);
}
VLMZOO_CLONES void swiglu_row(const c10::BFloat16* gate, const c10::BFloat16* up, c10::BFloat16* y, std::int64_t n) {
  swiglu_row<c10::BFloat16>(gate, up, y, n);
}

template <class T>
at::Tensor rms_norm_of(const at::Tensor& x, const at::Tensor& weight, float eps) {
  at::Tensor y = at::empty(x.sizes(), x.options());
  const std::int64_t width = x.size(-1), rows = x.numel() / width;
  const T* in = x.const_data_ptr<T>();
  const T* w = weight.const_data_ptr<T>();
  T* out = y.mutable_data_ptr<T>();
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrain / width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) rms_norm_row(in + row * width, w, out + row * width, width, eps);
  });
  return y;
}

template <class T>
at::Tensor rotate_of(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const std::int64_t tokens = x.size(0), heads = x.size(1), width = x.size(2), half = width / 2;
  at::Tensor y = at::empty({tokens, heads, width}, x.options());
  const T* in = x.const_data_ptr<T>();
  const float *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
  T* out = y.mutable_data_ptr<T>();
  const std::int64_t token_stride = x.stride(0), head_stride = x.stride(1);
  at::parallel_for(0, tokens, std::max<std::int64_t>(1, kGrain / (heads * width)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t t = begin; t < end; ++t) {
                       for (std::int64_t h = 0; h < heads; ++h) {
                         rotate_head(in + t * token_stride + h * head_stride, c + t * half, s + t * half,
                                     out + (t * heads + h) * width, half);
                       }
                     }
                   });
  return y;
}

template <class T>
at::Tensor swiglu_of(const at::Tensor& gate_up) {
  const std::int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  at::Tensor y = at::empty({rows, width}, gate_up.options());
  const T* in = gate_up.const_data_ptr<T>();
  T* out = y.mutable_data_ptr<T>();
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrain / width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      swiglu_row(in + row * 2 * width, in + row * 2 * width + width, out + row * width, width);
  });
  return y;
}

}  // namespace

bool row_kernels_apply(const at::Tensor& x) {
  return x.is_cpu() && !(c10::GradMode::is_enabled() && x.requires_grad()) &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

at::Tensor rms_norm_rows(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x.scalar_type() == at::kFloat ? rms_norm_of<float>(x, weight, static_cast<float>(eps))
                                       : rms_norm_of<c10::BFloat16>(x, weight, static_cast<float>(eps));
}
at::Tensor rotate_rows(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return x.scalar_type() == at::kFloat ? rotate_of<float>(x, cos, sin) : rotate_of<c10::BFloat16>(x, cos, sin);
}
at::Tensor swiglu_rows(const at::Tensor& gate_up) {
  return gate_up.scalar_type() == at::kFloat ? swiglu_of<float>(gate_up) : swiglu_of<c10::BFloat16>(gate_up);
}

}  // namespace vlmzoo
