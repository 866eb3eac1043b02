#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vlmzoo {

/// What a picture file says about itself, and the part of it that a decoder needs.
struct ImageHeader {
  std::int64_t width = 0, height = 0;  ///< as stored, before the orientation is applied
  int orientation = 1;                 ///< EXIF 1-8, else XMP's
  bool grey16 = false;                 ///< PNG with one channel of 16 bits
  bool cmyk = false;                   ///< JPEG with four components
  std::vector<std::uint8_t> stream;    ///< the file without metadata, transparency, later frames and trailing bytes
};

/// Walks the whole file (PNG chunks with their CRC, JPEG segments up to EOI, WebP chunks), decodes nothing. The size is
/// checked as soon as it is known. Errors as load_image; what passes is complete, so that a decoder doesn't meet its
/// end.
ImageHeader read_image_header(std::span<const std::uint8_t> bytes, const std::string& where);

}  // namespace vlmzoo
