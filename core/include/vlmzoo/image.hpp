#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// 8-bit RGB picture, interleaved, row by row: pixels[(y · width + x) · 3 + channel].
struct Image {
  std::int64_t width = 0, height = 0;
  std::vector<std::uint8_t> pixels;
};

/// Largest picture that is decoded, in pixels.
inline constexpr std::int64_t kMaxPixels = 50'000'000;

/// Decodes PNG, JPEG or WebP (by content, not by name) to RGB as Pillow's
/// `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` does: alpha dropped, palette and grey expanded, 16-bit grey
/// clipped at 255 (with a warning), EXIF orientation (else XMP's) applied once. CMYK JPEGs come within 2 of 255 (with a
/// warning). The size in the header is checked before anything is decoded. Errors: kNotFound, kIo, kUnsupported
/// (another format, animated WebP, a side above 65535), kCorrupt (not a picture, empty, truncated), kMemory (more than
/// kMaxPixels).
VLMZOO_API Image load_image(const std::filesystem::path& path);

/// The same from memory; `where` begins the messages.
VLMZOO_API Image decode_image(std::span<const std::uint8_t> bytes, const std::string& where);

enum class Resample { kBilinear, kBicubic };

/// Pillow's `Image.resize((width, height), resample)` on 8-bit RGB, equal bit for bit to Pillow 13 (source: Pillow,
/// src/libImaging/Resample.c: antialiased, fixed-point coefficients of 22 bits, bicubic a = -0.5; the vertical pass
/// goes first when the height shrinks by more than twice what the width does, which Pillow before 13 doesn't do: ±1 in
/// some pixels). Errors: kMismatch for an empty picture or a side outside [1, 65535], kMemory above 4 · kMaxPixels on
/// the way.
VLMZOO_API Image resize(const Image& image, std::int64_t width, std::int64_t height, Resample resample);

/// Copies the rectangle; it has to lie inside. Error: kMismatch.
VLMZOO_API Image crop(const Image& image, std::int64_t left, std::int64_t top, std::int64_t width, std::int64_t height);

}  // namespace vlmzoo
