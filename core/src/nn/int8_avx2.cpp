// int8 weights by 16-bit activations for processors without VNNI. `vpmaddwd` multiplies 16 pairs of 16-bit numbers and
// adds neighbours in 32 bits: twice the products of fp32's FMA, exact, nothing saturates. Weights lie in memory as
// bytes and are widened a block at a time, once for many rows.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "int8_product.hpp"
#include "linear_kernel.hpp"
#include "own_part_first.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

namespace vlmzoo {
namespace {

constexpr std::int64_t kPanel = 16;                 // outputs side by side: two vectors of sums
constexpr std::int64_t kPair = 2 * kPanel;          // numbers of a panel for two neighbouring inputs
constexpr std::int64_t kDepth = 512;                // inputs of a block: 512 · 32767 · 127 < 2³¹
constexpr std::int64_t kTile = 6;                   // rows whose sums stay in registers
constexpr std::int64_t kRowBlock = 20 * kTile;      // with kDepth inputs each: half a small second-level cache
constexpr std::int64_t kPanelGroup = 8;             // panels that meet such a block of rows
constexpr std::int64_t kFewRowsBlock = 128 * 1024;  // bytes of weights that a thread takes at once
constexpr std::int64_t kAhead = 32;        // pairs of inputs: activations are fetched early, a twentieth faster
constexpr std::int64_t kElements = 65536;  // work that is worth a thread
constexpr long kSteps = 32767;             // of activations, either way from 0

__attribute__((target("avx2"))) void quantize(const float* x, std::int64_t count, float factor, std::int16_t* to) {
  const __m256 factors = _mm256_set1_ps(factor);
  std::int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), factors));
    const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + 8), factors));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11011000);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + k), words);
  }
  for (; k < count; ++k) to[k] = static_cast<std::int16_t>(std::clamp(std::lrint(x[k] * factor), -kSteps, kSteps));
}

__attribute__((target("avx2"))) void widen(const std::int8_t* bytes, std::int64_t count, std::int16_t* to) {
  for (std::int64_t i = 0; i < count; i += 16) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to + i), _mm256_cvtepi8_epi16(narrow));
  }
}

/// Weights of a pair of inputs: of the outputs 0 to 7 and 8 to 15.
__attribute__((target("avx2"), always_inline)) inline void load(const std::int16_t* b, __m256i& low, __m256i& high) {
  low = _mm256_load_si256(reinterpret_cast<const __m256i*>(b));
  high = _mm256_load_si256(reinterpret_cast<const __m256i*>(b + kPanel));
}
__attribute__((target("avx2"), always_inline)) inline void load(const std::int8_t* b, __m256i& low, __m256i& high) {
  low = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
  high = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + kPanel)));
}

/// sum += products of 16-bit neighbours. Written out because compilers, left alone with as many sums as there are
/// registers, keep products for later and sums in memory: two thirds of the speed.
__attribute__((target("avx2"), always_inline)) inline void add_products(__m256i& sum, __m256i a, __m256i b) {
  __m256i products;
  asm volatile("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(a), "x"(b));
}

/// One block of inputs of one panel.
struct Block {
  std::int64_t pairs;
  std::array<float, kPanel> scales, bias;
  bool first;  ///< y begins with the bias; else it is added to
};

/// y [kRows, 16] of a tile of activations [pairs, kTile, 2], `row_scales` one each. `Weight` is int16, aligned, or
/// int8.
template <int kRows, class Weight>
__attribute__((target("avx2,fma"))) void multiply_tile(const std::int16_t* a, const Weight* b, const Block& block,
                                                       const float* row_scales, float* y, std::int64_t y_stride) {
  __m256i sums[kRows][2];
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) sums[row][0] = sums[row][1] = _mm256_setzero_si256();
  for (std::int64_t pair = 0; pair < block.pairs; ++pair, a += 2 * kTile, b += kPair) {
    __m256i low, high;
    load(b, low, high);
    _mm_prefetch(reinterpret_cast<const char*>(a + kAhead * 2 * kTile), _MM_HINT_T0);
#pragma GCC unroll 6
    for (int row = 0; row < kRows; ++row) {
      std::int32_t two;
      std::memcpy(&two, a + 2 * row, sizeof(two));
      const __m256i activations = _mm256_set1_epi32(two);
      add_products(sums[row][0], activations, low);
      add_products(sums[row][1], activations, high);
    }
  }
#pragma GCC unroll 6
  for (int row = 0; row < kRows; ++row) {
    const __m256 row_scale = _mm256_set1_ps(row_scales[row]);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      float* to = y + row * y_stride + 8 * half;
      const __m256 scale = _mm256_mul_ps(row_scale, _mm256_loadu_ps(block.scales.data() + 8 * half));
      const __m256 before = _mm256_loadu_ps(block.first ? block.bias.data() + 8 * half : to);
      _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[row][half]), scale, before));
    }
  }
}

/// The same for the first `rows` of a tile.
template <class Weight>
void multiply_tile(std::int64_t rows, const std::int16_t* a, const Weight* b, const Block& block,
                   const float* row_scales, float* y, std::int64_t y_stride) {
  using Tile = void (*)(const std::int16_t*, const Weight*, const Block&, const float*, float*, std::int64_t);
  static constexpr Tile kTiles[kTile] = {multiply_tile<1, Weight>, multiply_tile<2, Weight>, multiply_tile<3, Weight>,
                                         multiply_tile<4, Weight>, multiply_tile<5, Weight>, multiply_tile<6, Weight>};
  kTiles[rows - 1](a, b, block, row_scales, y, y_stride);
}

/// Rows of activations as 16-bit numbers.
struct QuantizedRows {
  std::int64_t count;
  at::Tensor words;  // int16 [tiles, depth / 2, kTile, 2]
  std::vector<float> scales;
  std::vector<Columns> outliers;
};

class Avx2Product final : public Int8Product {
 public:
  Avx2Product(std::int64_t in, std::int64_t out)
      : Int8Product(in, out),
        depth_((in + 1) / 2 * 2),
        panels_((out + kPanel - 1) / kPanel),
        bytes_(empty_weight({panels_ * depth_ * kPanel}, at::kChar)),
        scales_(at::zeros({panels_ * kPanel}, at::kFloat)) {
    bytes_.narrow(0, (panels_ - 1) * depth_ * kPanel, depth_ * kPanel).zero_();  // outputs that aren't there
  }

  void put(std::int64_t n, const std::int8_t* row, float scale) override {
    const std::int64_t in = in_features();
    std::int8_t* to = bytes_.mutable_data_ptr<std::int8_t>() + n / kPanel * depth_ * kPanel + n % kPanel * 2;
    for (std::int64_t k = 0; k + 1 < in; k += 2) std::memcpy(to + k * kPanel, row + k, 2);
    if (in % 2 != 0) {
      to[(in - 1) * kPanel] = row[in - 1];
      to[(in - 1) * kPanel + 1] = 0;
    }
    scales_.mutable_data_ptr<float>()[n] = scale;
  }

  void column(std::int64_t k, std::int64_t begin, std::int64_t end, float* to) const override {
    const std::int8_t* bytes = bytes_.const_data_ptr<std::int8_t>() + k / 2 * kPair + k % 2;
    const float* scales = scales_.const_data_ptr<float>();
    for (std::int64_t n = begin; n < end; ++n)
      to[n - begin] = static_cast<float>(bytes[n / kPanel * depth_ * kPanel + n % kPanel * 2]) * scales[n];
  }

  std::vector<Columns> multiply(const at::Tensor& x, const float* bias, at::Tensor& y) const override {
    QuantizedRows rows = quantized(x);
    float* to = y.mutable_data_ptr<float>();
    if (x.size(0) <= kTile) {
      const std::int64_t block = std::max<std::int64_t>(1, kFewRowsBlock / (depth_ * kPanel));
      own_part_first(panels_, block, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t panel = begin; panel < end; ++panel) few_rows(rows, panel, bias, to);
      });
    } else {
      many_rows(rows, bias, to);
    }
    return std::move(rows.outliers);
  }

  std::uint64_t bytes() const override { return bytes_.nbytes() + scales_.nbytes(); }
  const char* name() const override { return "avx2-int8"; }

 private:
  QuantizedRows quantized(const at::Tensor& x) const {
    const std::int64_t rows = x.size(0), in = in_features(), tiles = (rows + kTile - 1) / kTile;
    QuantizedRows result{rows, at::empty({tiles, depth_ / 2, kTile, 2}, at::kShort),
                         std::vector<float>(static_cast<std::size_t>(rows)),
                         std::vector<Columns>(static_cast<std::size_t>(rows))};
    const float* values = x.const_data_ptr<float>();
    auto* words = result.words.mutable_data_ptr<std::int16_t>();
    at::parallel_for(
        0, tiles, std::max<std::int64_t>(1, kElements / in / kTile), [&](std::int64_t begin, std::int64_t end) {
          std::vector<float> buffer;
          std::vector<std::int16_t> quantized_row(static_cast<std::size_t>(depth_));
          for (std::int64_t m = begin * kTile; m < std::min(rows, end * kTile); ++m) {
            const auto row = static_cast<std::size_t>(m);
            const Inliers inliers = split_outliers(values + m * in, in, buffer, result.outliers[row]);
            quantize(inliers.row, in, static_cast<float>(kSteps) / inliers.largest, quantized_row.data());
            std::int16_t* to = words + m / kTile * kTile * depth_ + m % kTile * 2;
            for (std::int64_t k = 0; k < depth_; k += 2) std::memcpy(to + k * kTile, quantized_row.data() + k, 4);
            result.scales[row] =
                inliers.finite ? inliers.largest / static_cast<float>(kSteps) : std::numeric_limits<float>::quiet_NaN();
          }
        });
    return result;
  }

  Block block_at(std::int64_t panel, std::int64_t first, const float* bias) const {
    Block block{std::min(kDepth, depth_ - first) / 2, {}, {}, first == 0};
    std::copy_n(scales_.const_data_ptr<float>() + panel * kPanel, kPanel, block.scales.begin());
    if (bias != nullptr) std::copy_n(bias + panel * kPanel, outputs_of(panel), block.bias.begin());
    return block;
  }
  std::int64_t outputs_of(std::int64_t panel) const { return std::min(kPanel, out_features() - panel * kPanel); }
  const std::int8_t* bytes_at(std::int64_t panel, std::int64_t first) const {
    return bytes_.const_data_ptr<std::int8_t>() + (panel * depth_ + first) * kPanel;
  }

  /// One block of a panel for some rows from a tile's first on; the last panel's outputs may be fewer than its lanes.
  template <class Weight>
  void add_block(const QuantizedRows& rows, std::int64_t row, std::int64_t count, std::int64_t panel,
                 std::int64_t first, const Weight* weights, const float* bias, float* y) const {
    const std::int64_t out = out_features(), lanes = outputs_of(panel);
    const Block block = block_at(panel, first, bias);
    for (const std::int64_t end = row + count; row < end; row += kTile) {
      const std::int64_t height = std::min(kTile, end - row);
      const std::int16_t* a = rows.words.const_data_ptr<std::int16_t>() + row * depth_ + first * kTile;
      const float* scales = rows.scales.data() + row;
      float* to = y + row * out + panel * kPanel;
      if (lanes == kPanel) {
        multiply_tile(height, a, weights, block, scales, to, out);
        continue;
      }
      std::array<float, kTile * kPanel> tile{};
      for (std::int64_t m = 0; m < height && !block.first; ++m)
        std::copy_n(to + m * out, lanes, tile.data() + m * kPanel);
      multiply_tile(height, a, weights, block, scales, tile.data(), kPanel);
      for (std::int64_t m = 0; m < height; ++m) std::copy_n(tile.data() + m * kPanel, lanes, to + m * out);
    }
  }

  /// Weights are widened as they are read, at memory's speed.
  void few_rows(const QuantizedRows& rows, std::int64_t panel, const float* bias, float* y) const {
    for (std::int64_t first = 0; first < depth_; first += kDepth)
      add_block(rows, 0, rows.count, panel, first, bytes_at(panel, first), bias, y);
  }

  void many_rows(const QuantizedRows& rows, const float* bias, float* y) const {
    const std::int64_t count = rows.count, threads = at::get_num_threads();
    const std::int64_t row_blocks = (count + kRowBlock - 1) / kRowBlock;
    const std::int64_t height = ((count + row_blocks - 1) / row_blocks + kTile - 1) / kTile * kTile;
    // Some tasks for each thread, so that one which is held up doesn't keep the rest waiting.
    const std::int64_t group = std::clamp<std::int64_t>(panels_ * row_blocks / (4 * threads), 1, kPanelGroup);
    const std::int64_t groups = (panels_ + group - 1) / group;
    own_part_first(groups * row_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t panel = task / row_blocks * group, row = task % row_blocks * height;
        multiply_group(rows, row, std::min(height, count - row), panel, std::min(panel + group, panels_), bias, y);
      }
    });
  }

  void multiply_group(const QuantizedRows& rows, std::int64_t row, std::int64_t count, std::int64_t begin,
                      std::int64_t end, const float* bias, float* y) const {
    alignas(64) std::array<std::int16_t, kDepth * kPanel> wide;
    for (std::int64_t first = 0; first < depth_; first += kDepth) {
      for (std::int64_t panel = begin; panel < end; ++panel) {
        widen(bytes_at(panel, first), std::min(kDepth, depth_ - first) * kPanel, wide.data());
        add_block(rows, row, count, panel, first, wide.data(), bias, y);
      }
    }
  }

  std::int64_t depth_, panels_;  // inputs, even; panels
  at::Tensor bytes_;             // int8 [panels, depth / 2, 16, 2]
  at::Tensor scales_;            // fp32 [panels · 16]
};

}  // namespace

std::shared_ptr<Int8Product> make_avx2_product(std::int64_t in, std::int64_t out) {
  return std::make_shared<Avx2Product>(in, out);
}

}  // namespace vlmzoo
#endif
