// FBGEMM's int8 product, for processors with VNNI. Its own packing runs on one thread at 0.2 GB/s, so its packed form
// is written here, on all.
#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "int8_product.hpp"
#include "linear_kernel.hpp"

#if defined(__x86_64__)
#include <fbgemm/Fbgemm.h>
#include <immintrin.h>

namespace vlmzoo {
namespace {

using PackedMatrix = fbgemm::PackBMatrix<std::int8_t, std::int32_t>;
constexpr std::int64_t kInterleave = 4;    // inputs that lie side by side in the packed form
constexpr std::int64_t kElements = 65536;  // work that is worth a thread
constexpr int kSteps = 127, kZero = 128;   // bytes of activations: kSteps either way from kZero
/// Up to so many rows get a second set of bytes, for what the first rounded off: an answer is the same alone and in a
/// batch of 8. Nearly free for one row, where reading the weights takes the time; twice the product from 4 on.
constexpr std::int64_t kFewRows = 8;

/// int32 sums to numbers, in place: (sum - kZero · column_sum) · row_scale · scale + bias.
__attribute__((target("avx2,fma"))) void dequantize(float* row, std::int64_t count, float row_scale,
                                                    const std::int32_t* column_sums, const float* scales,
                                                    const float* bias) {
  const __m256i zeros = _mm256_set1_epi32(kZero);
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
        static_cast<float>(sum - kZero * column_sums[n]) * (row_scale * scales[n]) + (bias != nullptr ? bias[n] : 0.0F);
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

/// Rows of activations in bytes.
struct QuantizedRows {
  at::Tensor bytes;               // uint8 [sets · M, in]
  std::vector<float> scales;      // sets · M
  std::vector<Columns> outliers;  // of each row
};

/// One row to its place in each set. `buffer` may hold the row.
void quantize_row(const Inliers& inliers, std::int64_t m, std::int64_t sets, std::vector<float>& buffer,
                  QuantizedRows& result) {
  const std::int64_t rows = result.bytes.size(0) / sets, in = result.bytes.size(1);
  const float* row = inliers.row;
  float largest = inliers.largest;
  for (std::int64_t set = 0; set < sets; ++set) {
    std::uint8_t* bytes = result.bytes.mutable_data_ptr<std::uint8_t>() + (set * rows + m) * in;
    const float scale = largest / kSteps;
    result.scales[static_cast<std::size_t>(set * rows + m)] = scale;
    quantize_to_bytes(row, in, kSteps / largest, kZero, bytes);
    if (set + 1 == sets) break;
    buffer.resize(static_cast<std::size_t>(in));
    for (std::int64_t k = 0; k < in; ++k)
      buffer[static_cast<std::size_t>(k)] = row[k] - static_cast<float>(bytes[k] - kZero) * scale;
    row = buffer.data();
    largest = std::max(magnitude(row, in).largest, 1e-30F);
  }
  if (!inliers.finite) result.scales[static_cast<std::size_t>(m)] = std::numeric_limits<float>::quiet_NaN();
}

QuantizedRows quantize_rows(const at::Tensor& x, std::int64_t sets) {
  const std::int64_t rows = x.size(0), in = x.size(1);
  QuantizedRows result{at::empty({sets * rows, in}, at::kByte),
                       std::vector<float>(static_cast<std::size_t>(sets * rows)),
                       std::vector<Columns>(static_cast<std::size_t>(rows))};
  const float* values = x.const_data_ptr<float>();
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kElements / in), [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> buffer;
    for (std::int64_t m = begin; m < end; ++m) {
      auto& outliers = result.outliers[static_cast<std::size_t>(m)];
      quantize_row(split_outliers(values + m * in, in, buffer, outliers), m, sets, buffer, result);
    }
  });
  return result;
}

class FbgemmProduct final : public Int8Product {
 public:
  FbgemmProduct(std::int64_t in, std::int64_t out)
      : Int8Product(in, out),
        packed_(empty_weight({PackedMatrix::packedBufferSize(static_cast<int>(in), static_cast<int>(out))}, at::kChar)
                    .zero_()),
        scales_(at::empty({out}, at::kFloat)),
        column_sums_(at::empty({out}, at::kInt)),
        matrix_(std::make_unique<PackedMatrix>(fbgemm::matrix_op_t::Transpose, static_cast<int>(in),
                                               static_cast<int>(out), /*smat=*/nullptr, static_cast<int>(in),
                                               packed_.mutable_data_ptr<std::int8_t>())) {}

  void put(std::int64_t n, const std::int8_t* row, float scale) override {
    const std::int64_t in = in_features();
    std::int32_t sum = 0;
    for (std::int64_t k = 0; k < in; ++k) sum += row[k];
    scales_.mutable_data_ptr<float>()[n] = scale;
    column_sums_.mutable_data_ptr<std::int32_t>()[n] = sum;
    const Tiles tiles{*matrix_};
    auto* bytes = packed_.mutable_data_ptr<std::int8_t>();
    for (std::int64_t first = 0; first < in; first += tiles.depth) {
      std::int8_t* to = bytes + tiles.begin(first / tiles.depth, n);
      const std::int64_t last = std::min(first + tiles.depth, in);
      for (std::int64_t k = first; k < last; k += kInterleave, to += tiles.width * kInterleave)
        std::copy_n(row + k, std::min(kInterleave, last - k), to);
    }
  }

  void column(std::int64_t k, std::int64_t begin, std::int64_t end, float* to) const override {
    const Tiles tiles{*matrix_};
    const auto* bytes = packed_.const_data_ptr<std::int8_t>();
    const float* scales = scales_.const_data_ptr<float>();
    for (std::int64_t n = begin; n < end; ++n) to[n - begin] = static_cast<float>(bytes[tiles.at(k, n)]) * scales[n];
  }

  std::vector<Columns> multiply(const at::Tensor& x, const float* bias, at::Tensor& y) const override {
    const std::int64_t rows = x.size(0), out = out_features(), sets = rows <= kFewRows ? 2 : 1;
    QuantizedRows quantized = quantize_rows(x, sets);
    at::Tensor sums = sets == 1 ? y : at::empty({sets * rows, out}, y.options());
    multiply_bytes(quantized.bytes, sums);
    const std::int64_t grain = std::max<std::int64_t>(1, kElements / out);
    at::parallel_for(0, sets * rows, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t m = begin; m < end; ++m) {
        dequantize(sums.mutable_data_ptr<float>() + m * out, out, quantized.scales[static_cast<std::size_t>(m)],
                   column_sums_.const_data_ptr<std::int32_t>(), scales_.const_data_ptr<float>(),
                   m < rows ? bias : nullptr);
      }
    });
    if (sets == 2) at::add_out(y, sums.narrow(0, 0, rows), sums.narrow(0, rows, rows));
    return std::move(quantized.outliers);
  }

  std::uint64_t bytes() const override { return packed_.nbytes() + scales_.nbytes() + column_sums_.nbytes(); }
  const char* name() const override { return "fbgemm-int8"; }

 private:
  /// int32 sums, written over y's memory.
  void multiply_bytes(const at::Tensor& bytes, at::Tensor& y) const {
    const auto rows = static_cast<int>(bytes.size(0)), in = static_cast<int>(bytes.size(1));
    auto* sums = reinterpret_cast<std::int32_t*>(y.mutable_data_ptr<float>());
    const int threads = at::get_num_threads();
    at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t thread = begin; thread < end; ++thread) {
        fbgemm::PackAMatrix<std::uint8_t> a(fbgemm::matrix_op_t::NoTranspose, rows, in,
                                            bytes.const_data_ptr<std::uint8_t>(), in);
        fbgemm::DoNothing<std::int32_t, std::int32_t> nothing;
        const fbgemm::memCopy<> store(nothing);
        fbgemm::fbgemmPacked(a, *matrix_, sums, sums, static_cast<std::uint32_t>(out_features()), store,
                             static_cast<int>(thread), threads);
      }
    });
  }

  at::Tensor packed_;                     // int8
  at::Tensor scales_;                     // fp32 [out]
  at::Tensor column_sums_;                // int32 [out], of the int8 weights
  std::unique_ptr<PackedMatrix> matrix_;  // a view of packed_
};

}  // namespace

std::shared_ptr<Int8Product> make_fbgemm_product(std::int64_t in, std::int64_t out) {
  return std::make_shared<FbgemmProduct>(in, out);
}

}  // namespace vlmzoo
#endif
