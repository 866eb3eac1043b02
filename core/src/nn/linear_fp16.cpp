// FBGEMM's product of fp32 activations with 16-bit weights. Its packed form is written here, on all threads: its own
// packing converts one number at a time on one thread, which took four fifths of a model's load time.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "linear_kernel.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <fbgemm/FbgemmFP16.h>
#include <immintrin.h>
#endif

namespace vlmzoo {

#if defined(__x86_64__)
namespace {

constexpr std::int64_t kDepth = 512;  // inputs of a tile, FBGEMM's default
constexpr float kHalfMax = 65504.0F;  // fp16's largest number

/// `count` numbers to fp16, rounded to nearest even. False when one of them is beyond its range (or NaN).
__attribute__((target("avx2,f16c"))) bool to_half(const float* from, std::int64_t count, std::uint16_t* to) {
  const __m256 largest = _mm256_set1_ps(kHalfMax), magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 beyond = _mm256_setzero_ps();
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    const __m256 values = _mm256_loadu_ps(from + k);
    beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(_mm256_and_ps(values, magnitude), largest, _CMP_NLE_UQ));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + k), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  }
  bool fits = _mm256_movemask_ps(beyond) == 0;
  for (; k < count; ++k) {
    fits = fits && std::abs(from[k]) <= kHalfMax;
    to[k] = c10::Half(from[k]).x;
  }
  return fits;
}

class Fp16Kernel final : public Linear::Kernel {
 public:
  using Kernel::run;

  Fp16Kernel(std::int64_t in, std::int64_t out, at::Tensor packed, at::Tensor bias)
      : Kernel(in, out), packed_(std::move(packed)), bias_(std::move(bias)) {
    const auto width = static_cast<int>(packed_.size(1)), depth = static_cast<int>(kDepth);
    const auto rows = static_cast<int>(in), columns = static_cast<int>(out);
    const int last = rows % depth == 0 ? depth : rows % depth;
    matrix_ = std::make_unique<fbgemm::PackedGemmMatrixFP16>(
        rows, columns, depth, last, width, (rows + depth - 1) / depth, (columns + width - 1) / width,
        static_cast<std::uint64_t>(packed_.numel()), /*kernel_ncol_blocks=*/2, packed_.mutable_data_ptr());
  }

  at::Tensor run(const at::Tensor& x) const override {
    const at::Tensor wide = x.to(at::kFloat);
    at::Tensor y = at::empty({x.size(0), out_features()}, wide.options());
    const auto rows = static_cast<int>(x.size(0));
    const int threads = at::get_num_threads();
    if (rows > 0) {
      at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t thread = begin; thread < end; ++thread) {
          fbgemm::cblas_gemm_compute(fbgemm::matrix_op_t::NoTranspose, rows, wide.const_data_ptr<float>(), *matrix_,
                                     /*beta=*/0.0F, y.mutable_data_ptr<float>(), static_cast<int>(thread), threads);
        }
      });
    }
    if (bias_.defined()) y.add_(bias_);
    return y.to(x.scalar_type());
  }
  std::uint64_t bytes() const override { return packed_.nbytes() + (bias_.defined() ? bias_.nbytes() : 0); }
  const char* name() const override { return "fbgemm-fp16"; }

 private:
  at::Tensor packed_, bias_;
  std::unique_ptr<fbgemm::PackedGemmMatrixFP16> matrix_;  // a view of packed_
};

/// Outputs of a tile.
std::int64_t tile_width() {
  return fbgemm::isZmm(fbgemm::fbgemmInstructionSet())
             ? 2 * fbgemm::simd_info<fbgemm::inst_set_t::avx512>::WIDTH_32BIT_ELEMS
             : 2 * fbgemm::simd_info<fbgemm::inst_set_t::avx2>::WIDTH_32BIT_ELEMS;
}

class Fp16Packer final : public RowPacker {
 public:
  Fp16Packer(std::int64_t in, std::int64_t out) : in_(in), out_(out) {
    const std::int64_t width = tile_width();
    packed_ = empty_weight({(out + width - 1) / width * in, width}, at::kHalf);
  }

  bool add(std::int64_t first, const at::Tensor& rows) override {
    const std::int64_t width = packed_.size(1), last = first + rows.size(0);
    std::atomic<bool> fits = true;
    at::parallel_for(first / width, (last + width - 1) / width, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t tile = begin; tile < end; ++tile) {
        const std::int64_t lanes = std::min(width, last - tile * width);
        if (!pack_tile(tile, rows.const_data_ptr<float>() + (tile * width - first) * in_, lanes)) fits = false;
      }
    });
    return fits;
  }

  std::shared_ptr<const Linear::Kernel> finish(const at::Tensor& bias) override {
    return std::make_shared<Fp16Kernel>(in_, out_, packed_, bias);
  }

 private:
  /// Slices of kDepth inputs lie one after another; in each, tiles side by side, each [inputs, width].
  bool pack_tile(std::int64_t tile, const float* rows, std::int64_t lanes) {
    const std::int64_t width = packed_.size(1), columns = (out_ + width - 1) / width;
    std::array<std::uint16_t, kDepth> halves;
    bool fits = true;
    for (std::int64_t slice = 0; slice < in_; slice += kDepth) {
      const std::int64_t depth = std::min(kDepth, in_ - slice);
      std::uint16_t* to =
          static_cast<std::uint16_t*>(packed_.mutable_data_ptr()) + (slice * columns + tile * depth) * width;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        if (lane < lanes) {
          fits = to_half(rows + lane * in_ + slice, depth, halves.data()) && fits;
        } else {
          halves.fill(0);
        }
        for (std::int64_t k = 0; k < depth; ++k) to[k * width + lane] = halves[static_cast<std::size_t>(k)];
      }
    }
    return fits;
  }

  std::int64_t in_, out_;
  at::Tensor packed_;
};

}  // namespace

std::unique_ptr<RowPacker> make_fp16_packer(std::int64_t in, std::int64_t out) {
  return cpu_features().fbgemm() ? std::make_unique<Fp16Packer>(in, out) : nullptr;
}
#else
std::unique_ptr<RowPacker> make_fp16_packer(std::int64_t, std::int64_t) { return nullptr; }
#endif

}  // namespace vlmzoo
