// FBGEMM's int8 product, with what makes it trustworthy: a scale per output channel and per token, and outliers of the
// activations kept out of it (Dettmers et al., "LLM.int8()", 2022). FBGEMM's own packing runs on one thread at 0.2
// GB/s, so its packed form is written here, on all.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "linear_kernel.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <fbgemm/Fbgemm.h>
#include <immintrin.h>
#endif

namespace vlmzoo {

#if defined(__x86_64__)
namespace {

using PackedMatrix = fbgemm::PackBMatrix<std::int8_t, std::int32_t>;
constexpr std::int64_t kInterleave = 4;    // inputs that lie side by side in the packed form
constexpr float kOutlier = 6.0F;           // LLM.int8's threshold, for rows of mean magnitude <= 1
constexpr std::int64_t kElements = 65536;  // work that is worth a thread
/// Up to so many rows get a second set of bytes: an answer is the same alone and in a batch of 8. Nearly free for one
/// row, where reading the weights takes the time; twice the product from 4 on.
constexpr std::int64_t kFewRows = 8;

/// Without VNNI, FBGEMM sums the products of two neighbours in saturating 16 bits.
bool saturates() {
  static const fbgemm::inst_set_t kernels = fbgemm::fbgemmInstructionSet();
  return kernels != fbgemm::inst_set_t::avx512_vnni && kernels != fbgemm::inst_set_t::avx512_vnni_ymm;
}

/// Bytes of activations: `steps` either way from `zero`. Where sums saturate, 2 · 126 · 127 has to fit into 16 bits.
struct ByteRange {
  int steps, zero;

  static ByteRange of_kernels() { return saturates() ? ByteRange{63, 63} : ByteRange{127, 128}; }
};

/// How many sets of bytes a row of activations is cut into: a second one holds what the first rounded off.
std::int64_t sets_of(std::int64_t rows) { return rows <= kFewRows || saturates() ? 2 : 1; }

struct Magnitude {
  float largest = 0, mean = 0;
};

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

/// round(x · factor) + zero of each number, which must fit into a byte.
__attribute__((target("avx2"))) void quantize(const float* x, std::int64_t count, float factor, int zero,
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

/// int32 sums to numbers, in place: (sum - zero · column_sum) · row_scale · scale + bias.
__attribute__((target("avx2,fma"))) void dequantize(float* row, std::int64_t count, int zero, float row_scale,
                                                    const std::int32_t* column_sums, const float* scales,
                                                    const float* bias) {
  const __m256i zeros = _mm256_set1_epi32(zero);
  const __m256 row_scales = _mm256_set1_ps(row_scale);
  std::int64_t n = 0;
  for (; n + 8 <= count; n += 8) {
    const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + n));
    const __m256i shift =
        _mm256_mullo_epi32(zeros, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(column_sums + n)));
    const __m256 scale = _mm256_mul_ps(row_scales, _mm256_loadu_ps(scales + n));
    const __m256 bias_values = bias != nullptr ? _mm256_loadu_ps(bias + n) : _mm256_setzero_ps();
    _mm256_storeu_ps(row + n, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums, shift)), scale, bias_values));
  }
  for (; n < count; ++n) {
    std::int32_t sum = 0;
    std::memcpy(&sum, row + n, sizeof(sum));
    row[n] =
        static_cast<float>(sum - zero * column_sums[n]) * (row_scale * scales[n]) + (bias != nullptr ? bias[n] : 0.0F);
  }
}

/// Where FBGEMM expects the weight of input k and output n: tiles of [inputs / 4, outputs, 4].
struct Tiles {
  const PackedMatrix& matrix;
  std::int64_t depth = matrix.blockRowSize(), width = matrix.blockColSize();

  std::int64_t begin(std::int64_t slice, std::int64_t n) const {
    return matrix.addr(static_cast<std::int32_t>(slice * depth), static_cast<std::int32_t>(n));
  }
  std::int64_t at(std::int64_t k, std::int64_t n) const {
    return begin(k / depth, n) + k % depth / kInterleave * width * kInterleave + k % kInterleave;
  }
};

struct Int8Weights {
  std::int64_t in, out;
  at::Tensor packed;       // int8
  at::Tensor scales;       // fp32 [out]
  at::Tensor column_sums;  // int32 [out], of the int8 weights
  PackedMatrix matrix;     // a view of packed

  Int8Weights(std::int64_t in_features, std::int64_t out_features)
      : in(in_features),
        out(out_features),
        packed(empty_weight({PackedMatrix::packedBufferSize(static_cast<int>(in), static_cast<int>(out))}, at::kChar)
                   .zero_()),
        scales(at::empty({out}, at::kFloat)),
        column_sums(at::empty({out}, at::kInt)),
        matrix(fbgemm::matrix_op_t::Transpose, static_cast<int>(in), static_cast<int>(out), /*smat=*/nullptr,
               static_cast<int>(in), packed.mutable_data_ptr<std::int8_t>()) {}

  /// One row of the matrix, fp32 [in], symmetric. `row` is a buffer.
  void put(std::int64_t n, const float* weights, std::vector<std::uint8_t>& row) {
    const Magnitude size = magnitude(weights, in);
    const float largest = std::max(size.largest, 1e-30F);
    if (!std::isfinite(size.mean)) {  // bytes hide it
      scales.mutable_data_ptr<float>()[n] = std::numeric_limits<float>::quiet_NaN();
      column_sums.mutable_data_ptr<std::int32_t>()[n] = 0;
      return;
    }
    quantize(weights, in, 127.0F / largest, /*zero=*/0, row.data());
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < in; ++k) sum += static_cast<std::int8_t>(row[static_cast<std::size_t>(k)]);
    scales.mutable_data_ptr<float>()[n] = largest / 127.0F;
    column_sums.mutable_data_ptr<std::int32_t>()[n] = sum;
    const Tiles tiles{matrix};
    auto* bytes = reinterpret_cast<std::uint8_t*>(packed.mutable_data_ptr<std::int8_t>());
    for (std::int64_t first = 0; first < in; first += tiles.depth) {
      std::uint8_t* to = bytes + tiles.begin(first / tiles.depth, n);
      const std::int64_t last = std::min(first + tiles.depth, in);
      for (std::int64_t k = first; k < last; k += kInterleave, to += tiles.width * kInterleave) {
        std::copy_n(row.data() + k, std::min(kInterleave, last - k), to);
      }
    }
  }

  /// fp32 [inputs.size(), out] of the given input columns.
  at::Tensor columns(const std::vector<std::int64_t>& inputs) const {
    at::Tensor result = at::empty({static_cast<std::int64_t>(inputs.size()), out}, at::kFloat);
    const Tiles tiles{matrix};
    const auto* bytes = packed.const_data_ptr<std::int8_t>();
    const float* scale = scales.const_data_ptr<float>();
    float* to = result.mutable_data_ptr<float>();
    at::parallel_for(0, out, std::max<std::int64_t>(1, kElements / result.size(0)),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::size_t i = 0; i < inputs.size(); ++i) {
                         float* row = to + static_cast<std::int64_t>(i) * out;
                         for (std::int64_t n = begin; n < end; ++n)
                           row[n] = static_cast<float>(bytes[tiles.at(inputs[i], n)]) * scale[n];
                       }
                     });
    return result;
  }
};

/// Rows of activations in bytes, and the outliers that were left out of them.
struct QuantizedRows {
  at::Tensor bytes;                                 // uint8 [sets · M, in]
  std::vector<float> scales;                        // sets · M
  std::vector<std::vector<std::int64_t>> outliers;  // of each row
};

/// One row, whose largest magnitude is known, to its place in each set. `buffer` is one of `in` numbers.
void quantize_row(const float* row, float largest, std::int64_t m, std::int64_t sets, std::vector<float>& buffer,
                  QuantizedRows& result) {
  const std::int64_t rows = result.bytes.size(0) / sets, in = result.bytes.size(1);
  const ByteRange range = ByteRange::of_kernels();
  for (std::int64_t set = 0; set < sets; ++set) {
    std::uint8_t* bytes = result.bytes.mutable_data_ptr<std::uint8_t>() + (set * rows + m) * in;
    largest = std::max(largest, 1e-30F);
    const float scale = largest / static_cast<float>(range.steps);
    result.scales[static_cast<std::size_t>(set * rows + m)] = scale;
    quantize(row, in, static_cast<float>(range.steps) / largest, range.zero, bytes);
    if (set + 1 == sets) return;
    buffer.resize(static_cast<std::size_t>(in));
    for (std::int64_t k = 0; k < in; ++k) {
      buffer[static_cast<std::size_t>(k)] = row[k] - static_cast<float>(bytes[k] - range.zero) * scale;
    }
    row = buffer.data();
    largest = magnitude(row, in).largest;
  }
}

QuantizedRows quantize_rows(const at::Tensor& x, std::int64_t sets) {
  const std::int64_t rows = x.size(0), in = x.size(1);
  QuantizedRows result{at::empty({sets * rows, in}, at::kByte),
                       std::vector<float>(static_cast<std::size_t>(sets * rows)),
                       std::vector<std::vector<std::int64_t>>(static_cast<std::size_t>(rows))};
  const float* values = x.const_data_ptr<float>();
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kElements / in), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> inliers;
    for (std::int64_t m = begin; m < end; ++m) {
      const float* row = values + m * in;
      auto& outliers = result.outliers[static_cast<std::size_t>(m)];
      const Magnitude size = magnitude(row, in);
      const float threshold = kOutlier * std::max(1.0F, size.mean);
      float largest = size.largest;
      if (largest >= threshold) {
        inliers.assign(row, row + in);
        for (std::int64_t k = 0; k < in; ++k) {
          if (std::abs(row[k]) < threshold) continue;
          outliers.push_back(k);
          inliers[static_cast<std::size_t>(k)] = 0;
        }
        row = inliers.data();
        largest = magnitude(row, in).largest;
      }
      quantize_row(row, largest, m, sets, inliers, result);
      if (!std::isfinite(size.mean))  // bytes hide it
        result.scales[static_cast<std::size_t>(m)] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  return result;
}

class Int8Kernel final : public Linear::Kernel {
 public:
  using Kernel::run;

  Int8Kernel(std::shared_ptr<Int8Weights> weights, at::Tensor bias)
      : Kernel(weights->in, weights->out), weights_(std::move(weights)), bias_(std::move(bias)) {}

  at::Tensor run(const at::Tensor& x) const override {
    const at::Tensor wide = x.to(at::kFloat);
    const std::int64_t rows = x.size(0), out = out_features(), sets = sets_of(rows);
    at::Tensor y = at::empty({sets * rows, out}, wide.options());
    if (rows == 0) return y.to(x.scalar_type());
    const QuantizedRows quantized = quantize_rows(wide, sets);
    multiply(quantized.bytes, y);
    const float* bias = bias_.defined() ? bias_.const_data_ptr<float>() : nullptr;
    const int zero = ByteRange::of_kernels().zero;
    const std::int64_t grain = std::max<std::int64_t>(1, kElements / out);
    at::parallel_for(0, sets * rows, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t m = begin; m < end; ++m) {
        dequantize(y.mutable_data_ptr<float>() + m * out, out, zero, quantized.scales[static_cast<std::size_t>(m)],
                   weights_->column_sums.const_data_ptr<std::int32_t>(), weights_->scales.const_data_ptr<float>(),
                   m < rows ? bias : nullptr);
      }
    });
    if (sets == 2) y = y.narrow(0, 0, rows).add_(y.narrow(0, rows, rows));
    add_outliers(wide, quantized.outliers, y);
    return y.to(x.scalar_type());
  }
  std::uint64_t bytes() const override {
    return weights_->packed.nbytes() + weights_->scales.nbytes() + weights_->column_sums.nbytes() +
           (bias_.defined() ? bias_.nbytes() : 0);
  }
  const char* name() const override { return "fbgemm-int8"; }

 private:
  /// int32 sums, written over y's memory.
  void multiply(const at::Tensor& bytes, at::Tensor& y) const {
    const auto rows = static_cast<int>(bytes.size(0)), in = static_cast<int>(bytes.size(1));
    auto* sums = reinterpret_cast<std::int32_t*>(y.mutable_data_ptr<float>());
    const int threads = at::get_num_threads();
    at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t thread = begin; thread < end; ++thread) {
        fbgemm::PackAMatrix<std::uint8_t> a(fbgemm::matrix_op_t::NoTranspose, rows, in,
                                            bytes.const_data_ptr<std::uint8_t>(), in);
        fbgemm::DoNothing<std::int32_t, std::int32_t> nothing;
        const fbgemm::memCopy<> store(nothing);
        fbgemm::fbgemmPacked(a, weights_->matrix, sums, sums, static_cast<std::uint32_t>(out_features()), store,
                             static_cast<int>(thread), threads);
      }
    });
  }

  static void add_rows(const at::Tensor& x, const std::vector<std::vector<std::int64_t>>& outliers,
                       const std::vector<std::int64_t>& inputs, at::Tensor& picked) {
    for (std::size_t m = 0; m < outliers.size(); ++m) {
      const float* row = x.const_data_ptr<float>() + static_cast<std::int64_t>(m) * x.size(1);
      float* to = picked.mutable_data_ptr<float>() + static_cast<std::int64_t>(m) * picked.size(1);
      for (const std::int64_t k : outliers[m]) {
        to[std::lower_bound(inputs.begin(), inputs.end(), k) - inputs.begin()] = row[k];
      }
    }
  }

  void add_outliers(const at::Tensor& x, const std::vector<std::vector<std::int64_t>>& outliers, at::Tensor& y) const {
    std::vector<std::int64_t> inputs;
    for (const auto& row : outliers) inputs.insert(inputs.end(), row.begin(), row.end());
    if (inputs.empty()) return;
    std::sort(inputs.begin(), inputs.end());
    inputs.erase(std::unique(inputs.begin(), inputs.end()), inputs.end());
    at::Tensor picked = at::zeros({x.size(0), static_cast<std::int64_t>(inputs.size())}, at::kFloat);
    add_rows(x, outliers, inputs, picked);
    y.addmm_(picked, weights_->columns(inputs));
  }

  std::shared_ptr<Int8Weights> weights_;
  at::Tensor bias_;
};

class Int8Packer final : public RowPacker {
 public:
  Int8Packer(std::int64_t in, std::int64_t out) : weights_(std::make_shared<Int8Weights>(in, out)) {}

  bool add(std::int64_t first, const at::Tensor& rows) override {
    const float* values = rows.const_data_ptr<float>();
    const std::int64_t in = weights_->in,
                       grain = std::max<std::int64_t>(weights_->matrix.blockColSize(), kElements / in);
    at::parallel_for(0, rows.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::uint8_t> row(static_cast<std::size_t>(in));
      for (std::int64_t n = begin; n < end; ++n) weights_->put(first + n, values + n * in, row);
    });
    return true;
  }
  std::shared_ptr<const Linear::Kernel> finish(const at::Tensor& bias) override {
    return std::make_shared<Int8Kernel>(weights_, bias);
  }

 private:
  std::shared_ptr<Int8Weights> weights_;
};

}  // namespace

std::unique_ptr<RowPacker> make_int8_packer(std::int64_t in, std::int64_t out) {
  // FBGEMM counts the elements of a packed matrix, which is a little larger, in 32 bits.
  const bool countable = in <= std::numeric_limits<std::int32_t>::max() / (out + 1024);
  return cpu_features().fbgemm() && countable ? std::make_unique<Int8Packer>(in, out) : nullptr;
}
#else
std::unique_ptr<RowPacker> make_int8_packer(std::int64_t, std::int64_t) { return nullptr; }
#endif

}  // namespace vlmzoo
