#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "target_clones.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/system.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Follows Pillow's src/libImaging/Resample.c operation by operation. This file is compiled with -ffp-contract=off: a
// fused multiply-add in the coefficients would change the last bit of some of them, and then some pixels.

namespace vlmzoo {
namespace {

constexpr std::int64_t kMaxSide = 65535;
constexpr std::int64_t kChannels = 3;
constexpr int kPrecisionBits = 32 - 8 - 2;  // the weights of one pixel may add up to somewhat more than 1 in magnitude
constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

double bilinear(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

/// For each output position of one axis: the run of input positions it is made of, and their fixed-point weights.
struct Axis {
  std::int64_t taps = 0;  ///< weights kept per output position
  std::vector<std::int64_t> first, count;
  std::vector<std::int32_t> weights;  ///< [output, taps]
};

Axis make_axis(std::int64_t in, std::int64_t out, Resample resample) {
  const auto filter = resample == Resample::kBicubic ? bicubic : bilinear;
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double filter_scale = std::max(scale, 1.0);  // wider when shrinking: this is the antialiasing
  const double support = (resample == Resample::kBicubic ? 2.0 : 1.0) * filter_scale;
  const double inverse = 1.0 / filter_scale;

  Axis axis;
  axis.taps = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  axis.first.resize(static_cast<std::size_t>(out));
  axis.count.resize(static_cast<std::size_t>(out));
  axis.weights.resize(static_cast<std::size_t>(out * axis.taps));
  std::vector<double> exact(static_cast<std::size_t>(axis.taps));
  for (std::int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const std::int64_t first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const std::int64_t count = std::min(static_cast<std::int64_t>(center + support + 0.5), in) - first;
    double sum = 0.0;
    for (std::int64_t k = 0; k < count; ++k) {
      const double weight = filter((static_cast<double>(k + first) - center + 0.5) * inverse);
      exact[static_cast<std::size_t>(k)] = weight;
      sum += weight;
    }
    for (std::int64_t k = 0; k < count; ++k) {
      double weight = exact[static_cast<std::size_t>(k)];
      if (sum != 0.0) weight /= sum;
      weight *= 1 << kPrecisionBits;
      axis.weights[static_cast<std::size_t>(i * axis.taps + k)] =
          static_cast<std::int32_t>(weight < 0 ? -0.5 + weight : 0.5 + weight);
    }
    axis.first[static_cast<std::size_t>(i)] = first;
    axis.count[static_cast<std::size_t>(i)] = count;
  }
  return axis;
}

std::uint8_t to_byte(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

/// One row: source [in, 3] -> target [out, 3]. Bytes from `end` on aren't there.
void resize_row_portable(const std::uint8_t* source, const std::uint8_t*, const Axis& axis, std::uint8_t* target) {
  for (std::size_t i = 0; i < axis.first.size(); ++i) {
    const std::uint8_t* pixel = source + axis.first[i] * kChannels;
    const std::int32_t* weight = axis.weights.data() + static_cast<std::int64_t>(i) * axis.taps;
    std::int32_t red = kHalf, green = kHalf, blue = kHalf;
    for (std::int64_t k = 0; k < axis.count[i]; ++k, pixel += kChannels) {
      red += pixel[0] * weight[k];
      green += pixel[1] * weight[k];
      blue += pixel[2] * weight[k];
    }
    *target++ = to_byte(red);
    *target++ = to_byte(green);
    *target++ = to_byte(blue);
  }
}

#if defined(__x86_64__)
/// Sums of whole numbers, so their order is free: two pixels at a time, each in four lanes of which three count.
__attribute__((target("avx2"))) void resize_row_avx2(const std::uint8_t* source, const std::uint8_t* end,
                                                     const Axis& axis, std::uint8_t* target) {
  const __m128i apart = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i first_second = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  for (std::size_t i = 0; i < axis.first.size(); ++i, target += kChannels) {
    const std::uint8_t* pixel = source + axis.first[i] * kChannels;
    const std::int32_t* weight = axis.weights.data() + static_cast<std::int64_t>(i) * axis.taps;
    const std::int64_t count = axis.count[i];
    __m256i sums = _mm256_setzero_si256();
    std::int64_t k = 0;
    for (; k + 2 <= count && end - pixel >= 8; k += 2, pixel += 2 * kChannels) {
      const __m128i bytes = _mm_shuffle_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pixel)), apart);
      const __m128i pair = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weight + k));
      const __m256i weights = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(pair), first_second);
      sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weights));
    }
    alignas(16) std::int32_t sum[4];
    const __m128i both = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(sum), both);
    for (; k < count; ++k, pixel += kChannels) {
      for (std::int64_t channel = 0; channel < kChannels; ++channel) sum[channel] += pixel[channel] * weight[k];
    }
    for (std::int64_t channel = 0; channel < kChannels; ++channel) target[channel] = to_byte(sum[channel] + kHalf);
  }
}
#endif

using ResizeRow = void (*)(const std::uint8_t*, const std::uint8_t*, const Axis&, std::uint8_t*);

ResizeRow best_resize_row() {
#if defined(__x86_64__)
  if (cpu_features().avx2) return resize_row_avx2;
#endif
  return resize_row_portable;
}

/// One output row as the weighted sum of `count` source rows. `sums` is scratch, as long as a row.
VLMZOO_CLONES void blend_rows(const std::uint8_t* source, const std::int32_t* weights, std::int64_t count,
                              std::vector<std::int32_t>& sums, std::uint8_t* target) {
  const std::size_t length = sums.size();
  std::fill(sums.begin(), sums.end(), kHalf);
  std::int32_t* sum = sums.data();
  for (std::int64_t k = 0; k < count; ++k, source += length) {
    const std::int32_t weight = weights[k];
    for (std::size_t i = 0; i < length; ++i) sum[i] += source[i] * weight;
  }
  for (std::size_t i = 0; i < length; ++i) target[i] = to_byte(sum[i]);
}

Image make_image(std::int64_t width, std::int64_t height) {
  return {width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * kChannels))};
}

void check_image(const Image& image) {
  const bool sides = image.width >= 1 && image.height >= 1 && image.width <= kMaxSide && image.height <= kMaxSide;
  if (!sides || image.pixels.size() != static_cast<std::size_t>(image.width * image.height * kChannels))
    throw Error(ErrorCode::kMismatch,
                fmt::format("picture of {}×{} pixels in {} bytes; expected sides from 1 to {} and 3 bytes per pixel",
                            image.width, image.height, image.pixels.size(), kMaxSide));
}

/// Since 13.0.0 (python-pillow/Pillow#9549) Pillow takes the height first when that removes many more rows than
/// columns; the order decides the last bit of some pixels. The rule as its behaviour shows it, over 9,900 sizes.
bool vertical_first(const Image& image, std::int64_t width, std::int64_t height) {
  return height < image.height && image.height - height > 2 * (image.width - width);
}

/// A thin picture blown up would take gigabytes on the way, whatever its own size is.
void check_memory(std::int64_t width, std::int64_t height) {
  constexpr std::int64_t kLimit = 4 * kMaxPixels;
  if (width * height > kLimit)
    throw Error(ErrorCode::kMemory,
                fmt::format("a resize would need {}×{} pixels in memory; the limit is {}", width, height, kLimit));
}

Image resize_width(const Image& image, std::int64_t width, Resample resample) {
  if (width == image.width) return image;
  const Axis columns = make_axis(image.width, width, resample);
  Image out = make_image(width, image.height);
  const ResizeRow resize_row = best_resize_row();
  const std::uint8_t *source = image.pixels.data(), *end = source + image.pixels.size();
  for (std::int64_t y = 0; y < image.height; ++y)
    resize_row(source + y * image.width * kChannels, end, columns, out.pixels.data() + y * width * kChannels);
  return out;
}

Image resize_height(const Image& image, std::int64_t height, Resample resample) {
  if (height == image.height) return image;
  const Axis rows = make_axis(image.height, height, resample);
  const std::int64_t length = image.width * kChannels;
  Image out = make_image(image.width, height);
  std::vector<std::int32_t> sums(static_cast<std::size_t>(length));
  for (std::int64_t y = 0; y < height; ++y) {
    const auto i = static_cast<std::size_t>(y);
    blend_rows(image.pixels.data() + rows.first[i] * length, rows.weights.data() + y * rows.taps, rows.count[i], sums,
               out.pixels.data() + y * length);
  }
  return out;
}

}  // namespace

Image resize(const Image& image, std::int64_t width, std::int64_t height, Resample resample) {
  check_image(image);
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
    throw Error(ErrorCode::kMismatch,
                fmt::format("can't resize to {}×{} pixels; sides are from 1 to {}", width, height, kMaxSide));
  if (vertical_first(image, width, height)) {
    check_memory(std::max(image.width, width), height);
    return resize_width(resize_height(image, height, resample), width, resample);
  }
  check_memory(width, std::max(image.height, height));
  return resize_height(resize_width(image, width, resample), height, resample);
}

Image crop(const Image& image, std::int64_t left, std::int64_t top, std::int64_t width, std::int64_t height) {
  check_image(image);
  if (left < 0 || top < 0 || width < 1 || height < 1 || width > image.width - left || height > image.height - top)
    throw Error(ErrorCode::kMismatch, fmt::format("can't crop {}×{} pixels at ({}, {}) from a picture of {}×{}", width,
                                                  height, left, top, image.width, image.height));
  Image out = make_image(width, height);
  for (std::int64_t y = 0; y < height; ++y)
    std::copy_n(image.pixels.data() + ((top + y) * image.width + left) * kChannels, width * kChannels,
                out.pixels.data() + y * width * kChannels);
  return out;
}

}  // namespace vlmzoo
