#include "image_header.hpp"

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

#include "vlmzoo/error.hpp"
#include "vlmzoo/image.hpp"

namespace vlmzoo {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::int64_t kMaxSide = 65535;  // what resize() takes, and JPEG can say
constexpr const char* kSupported = "supported are PNG, JPEG and WebP";

[[noreturn]] void corrupt(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", where, what));
}

[[noreturn]] void unsupported(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", where, what));
}

bool starts_with(Bytes bytes, std::string_view text, std::size_t offset = 0) {
  return bytes.size() >= offset + text.size() &&
         std::string_view(reinterpret_cast<const char*>(bytes.data()) + offset, text.size()) == text;
}

/// Unsigned integer of `count` bytes that lie inside `bytes`.
std::uint32_t big(Bytes bytes, std::size_t offset, std::size_t count) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8 | bytes[offset + i];
  return value;
}

std::uint32_t little(Bytes bytes, std::size_t offset, std::size_t count) {
  std::uint32_t value = 0;
  for (std::size_t i = count; i-- > 0;) value = value << 8 | bytes[offset + i];
  return value;
}

void append(std::vector<std::uint8_t>& out, Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

void set_size(ImageHeader& header, std::int64_t width, std::int64_t height, const std::string& where) {
  if (width < 1 || height < 1) corrupt(where, fmt::format("the header says {}×{} pixels", width, height));
  if (width > kMaxPixels / height)
    throw Error(
        ErrorCode::kMemory,
        fmt::format("{}: the picture has {}×{} = {} pixels, more than the limit of {}; scale it down first", where,
                    width, height, static_cast<std::uint64_t>(width) * static_cast<std::uint64_t>(height), kMaxPixels));
  if (width > kMaxSide || height > kMaxSide)
    unsupported(where,
                fmt::format("the picture has {}×{} pixels; a side may have at most {}", width, height, kMaxSide));
  header.width = width;
  header.height = height;
}

/// Orientation in a TIFF structure as EXIF stores it. Broken metadata is no reason to refuse the picture.
std::optional<int> exif_orientation(Bytes tiff) {
  while (starts_with(tiff, {"Exif\0\0", 6})) tiff = tiff.subspan(6);
  const bool little_endian = starts_with(tiff, {"II*\0", 4});
  if (tiff.size() < 8 || (!little_endian && !starts_with(tiff, {"MM\0*", 4}))) return std::nullopt;
  const auto integer = little_endian ? little : big;
  const std::size_t directory = integer(tiff, 4, 4);
  if (directory > tiff.size() - 2) return std::nullopt;
  const std::size_t count = integer(tiff, directory, 2);
  for (std::size_t i = 0, entry = directory + 2; i < count && entry + 12 <= tiff.size(); ++i, entry += 12) {
    const std::uint32_t type = integer(tiff, entry + 2, 2);
    if (integer(tiff, entry, 2) != 0x0112 || integer(tiff, entry + 4, 4) != 1) continue;
    if (type != 3 && type != 4) continue;  // SHORT, or LONG as some write it
    return static_cast<int>(integer(tiff, entry + 8, type == 3 ? 2 : 4));
  }
  return std::nullopt;
}

/// As Pillow: the first tiff:Orientation="N" or <tiff:Orientation>N.
std::optional<int> xmp_orientation(Bytes packet) {
  constexpr std::string_view kKey = "tiff:Orientation";
  const std::string_view text(reinterpret_cast<const char*>(packet.data()), packet.size());
  for (std::size_t at = text.find(kKey); at != std::string_view::npos; at = text.find(kKey, at)) {
    at += kKey.size();
    std::string_view rest = text.substr(at);
    if (rest.starts_with("=\""))
      rest.remove_prefix(2);
    else if (rest.starts_with(">"))
      rest.remove_prefix(1);
    else
      continue;
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

void set_orientation(ImageHeader& header, Bytes exif, Bytes xmp) {
  std::optional<int> value = exif_orientation(exif);
  if (!value) value = xmp_orientation(xmp);
  if (value && *value >= 1 && *value <= 8) header.orientation = *value;
}

// ---- PNG ----

std::uint32_t crc32(Bytes bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      entries[i] = i;
      for (int bit = 0; bit < 8; ++bit) entries[i] = entries[i] >> 1 ^ (entries[i] & 1 ? 0xEDB88320U : 0U);
    }
    return entries;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const std::uint8_t byte : bytes) crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8;
  return ~crc;
}

void read_ihdr(ImageHeader& header, Bytes data, const std::string& where) {
  if (data.size() != 13) corrupt(where, fmt::format("PNG header of {} bytes, expected 13", data.size()));
  set_size(header, big(data, 0, 4), big(data, 4, 4), where);
  const int depth = data[8], colour = data[9];
  const bool any_depth = depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
  const bool valid = colour == 0                                 ? any_depth
                     : colour == 3                               ? any_depth && depth <= 8
                     : colour == 2 || colour == 4 || colour == 6 ? depth == 8 || depth == 16
                                                                 : false;
  if (!valid) corrupt(where, fmt::format("PNG header with colour type {} and bit depth {}", colour, depth));
  if (data[10] != 0 || data[11] != 0 || data[12] > 1)
    corrupt(where,
            fmt::format("PNG header with compression {}, filter {}, interlace {}", data[10], data[11], data[12]));
  header.grey16 = colour == 0 && depth == 16;
}

ImageHeader read_png(Bytes bytes, const std::string& where) {
  constexpr std::size_t kSignature = 8, kFrame = 12;  // of a chunk: length, type, CRC
  ImageHeader header;
  append(header.stream, bytes.first(kSignature));
  Bytes exif, xmp;
  bool palette_wanted = false, data_seen = false;
  for (std::size_t at = kSignature;;) {
    const std::size_t left = bytes.size() - at;
    const std::size_t length = left < kFrame ? 0 : big(bytes, at, 4);
    if (left < kFrame || length > left - kFrame)
      corrupt(where, fmt::format("truncated PNG: {} bytes, and no IEND chunk in them", bytes.size()));
    const Bytes chunk = bytes.subspan(at, length + kFrame), data = chunk.subspan(8, length);
    const bool first = at == kSignature;
    if (first != starts_with(chunk, "IHDR", 4)) corrupt(where, "the PNG doesn't begin with one IHDR chunk");
    if (first) read_ihdr(header, data, where);
    if (crc32(chunk.subspan(4, length + 4)) != big(chunk, length + 8, 4))
      corrupt(where, fmt::format("wrong CRC in the PNG chunk at byte {}", at));
    at += chunk.size();

    // Only these decide the pixels of the RGB picture. The others (colour profiles, texts) make libpng print warnings.
    if (first) {
      append(header.stream, chunk);
      palette_wanted = data[9] == 3;
    } else if (starts_with(chunk, "PLTE", 4)) {
      if (length == 0 || length > 768 || length % 3 != 0)
        corrupt(where, fmt::format("PNG palette of {} bytes", length));
      if (palette_wanted && !data_seen) append(header.stream, chunk);
      palette_wanted = false;
    } else if (starts_with(chunk, "IDAT", 4)) {
      if (palette_wanted) corrupt(where, "palette PNG without a palette");
      data_seen = true;
      append(header.stream, chunk);
    } else if (starts_with(chunk, "eXIf", 4)) {
      exif = data;
    } else if (starts_with(data, {"XML:com.adobe.xmp\0\0", 19}) && starts_with(chunk, "iTXt", 4)) {
      xmp = data;  // the second zero: not compressed
    } else if (starts_with(chunk, "IEND", 4)) {
      if (!data_seen) corrupt(where, "PNG without picture data");
      append(header.stream, chunk);
      break;
    }
  }
  set_orientation(header, exif, xmp);
  return header;
}

// ---- JPEG ----

void read_sof(ImageHeader& header, int marker, Bytes data, const std::string& where) {
  if (header.width != 0) corrupt(where, "JPEG with two frame headers");
  if (data.size() < 6) corrupt(where, fmt::format("JPEG frame header of {} bytes", data.size()));
  if (data[0] != 8) unsupported(where, fmt::format("JPEG with {} bits per sample; 8 are supported", data[0]));
  const bool known = marker <= 0xC2 || marker == 0xC9 || marker == 0xCA;  // Huffman or arithmetic, not lossless
  if (!known) unsupported(where, fmt::format("lossless or hierarchical JPEG (SOF{})", marker - 0xC0));
  const int components = data[5];
  if (components != 1 && components != 3 && components != 4)
    unsupported(where, fmt::format("JPEG with {} components; 1, 3 and 4 are supported", components));
  set_size(header, big(data, 3, 2), big(data, 1, 2), where);
  header.cmyk = components == 4;
}

/// Position of the marker that ends the entropy-coded data at `at`, or the end of the file.
std::size_t skip_scan(Bytes bytes, std::size_t at) {
  for (; at + 1 < bytes.size(); ++at) {
    if (bytes[at] != 0xFF) continue;
    const std::uint8_t next = bytes[at + 1];
    const bool data = next == 0 || next == 0xFF || (next >= 0xD0 && next <= 0xD7);  // stuffing, fill, restart
    if (!data) return at;
  }
  return bytes.size();
}

ImageHeader read_jpeg(Bytes bytes, const std::string& where) {
  ImageHeader header;
  append(header.stream, bytes.first(2));
  Bytes exif, xmp;
  bool scan_seen = false;
  for (std::size_t at = 2;;) {
    while (at < bytes.size() && bytes[at] != 0xFF) ++at;  // as every decoder does with stray bytes
    while (at < bytes.size() && bytes[at] == 0xFF) ++at;
    if (at >= bytes.size())
      corrupt(where, fmt::format("truncated JPEG: {} bytes, and no end-of-image marker in them", bytes.size()));
    const int marker = bytes[at++];
    if (marker == 0xD9) break;
    if (marker <= 0x01 || (marker >= 0xD0 && marker <= 0xD7)) continue;  // no segment follows
    if (marker == 0xD8) corrupt(where, "JPEG with two start markers");
    const std::size_t left = bytes.size() - at;
    const std::size_t length = left < 2 ? 0 : big(bytes, at, 2);
    if (left < 2 || length > left) corrupt(where, fmt::format("truncated JPEG: {} bytes", bytes.size()));
    if (length < 2) corrupt(where, fmt::format("JPEG segment of {} bytes at byte {}", length, at));
    const Bytes data = bytes.subspan(at + 2, length - 2);
    const std::size_t begin = at - 2;
    at += length;

    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC)
      read_sof(header, marker, data, where);
    if (marker == 0xDA) {
      if (header.width == 0) corrupt(where, "JPEG scan before any frame header");
      scan_seen = true;
      at = skip_scan(bytes, at);
    }
    if (marker == 0xE1 && exif.empty() && starts_with(data, {"Exif\0\0", 6})) exif = data;
    if (marker == 0xE1 && starts_with(data, {"http://ns.adobe.com/xap/1.0/\0", 29})) xmp = data;
    // Of the application segments only JFIF's and Adobe's decide colours.
    const bool metadata = (marker >= 0xE0 && marker <= 0xEF && marker != 0xE0 && marker != 0xEE) || marker == 0xFE;
    if (!metadata) append(header.stream, bytes.subspan(begin, at - begin));
  }
  if (!scan_seen) corrupt(where, "JPEG without picture data");
  append(header.stream, std::array<std::uint8_t, 2>{0xFF, 0xD9});
  set_orientation(header, exif, xmp);
  return header;
}

// ---- WebP ----

void read_webp_frame(ImageHeader& header, bool lossless, Bytes data, const std::string& where) {
  const bool valid = lossless ? data.size() >= 5 && data[0] == 0x2F
                              : data.size() >= 10 && data[3] == 0x9D && data[4] == 0x01 && data[5] == 0x2A;
  if (!valid) corrupt(where, "broken WebP frame header");
  if (lossless) {
    const std::uint32_t bits = little(data, 1, 4);
    set_size(header, (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, where);
  } else {
    set_size(header, little(data, 6, 2) & 0x3FFF, little(data, 8, 2) & 0x3FFF, where);
  }
}

ImageHeader read_webp(Bytes bytes, const std::string& where) {
  const std::size_t end = std::size_t{little(bytes, 4, 4)} + 8;
  if (end > bytes.size()) corrupt(where, fmt::format("truncated WebP: {} bytes, expected {}", bytes.size(), end));
  bytes = bytes.first(end);
  ImageHeader header;
  Bytes exif, xmp, frame;
  for (std::size_t at = 12; at < end;) {
    const std::size_t left = end - at;
    const std::size_t length = left < 8 ? 0 : little(bytes, at + 4, 4);
    if (left < 8 || length > left - 8)
      corrupt(where, fmt::format("the WebP chunk at byte {} ends outside of the file", at));
    const Bytes chunk = bytes.subspan(at, length + 8), data = chunk.subspan(8);
    at += chunk.size() + length % 2;
    if (starts_with(chunk, "VP8X")) {
      if (length < 10) corrupt(where, fmt::format("WebP header of {} bytes", length));
      set_size(header, little(data, 4, 3) + 1, little(data, 7, 3) + 1, where);
      if (data[0] & 2) unsupported(where, "animated WebP; save one frame as a still picture");
    } else if (frame.empty() && (starts_with(chunk, "VP8 ") || starts_with(chunk, "VP8L"))) {
      frame = chunk;
      const auto [width, height] = std::pair(header.width, header.height);
      read_webp_frame(header, chunk[3] == 'L', data, where);
      if (width != 0 && (width != header.width || height != header.height))
        corrupt(where, fmt::format("a WebP frame of {}×{} pixels in a picture of {}×{}", header.width, header.height,
                                   width, height));
    } else if (starts_with(chunk, "EXIF")) {
      exif = data;
    } else if (starts_with(chunk, "XMP ")) {
      xmp = data;
    }
  }
  if (frame.empty()) corrupt(where, "WebP without picture data");
  // The frame alone is a WebP file of the simple kind; lossy files keep their alpha in a chunk of its own.
  const bool odd = frame.size() % 2 != 0;
  append(header.stream, bytes.first(12));
  for (std::size_t i = 0; i < 4; ++i)
    header.stream[4 + i] = static_cast<std::uint8_t>((frame.size() + odd + 4) >> (8 * i) & 0xFF);
  append(header.stream, frame);
  if (odd) header.stream.push_back(0);
  set_orientation(header, exif, xmp);
  return header;
}

/// Name of a picture format that isn't supported, or "".
std::string_view other_format(Bytes bytes) {
  if (starts_with(bytes, "GIF8")) return "GIF";
  if (starts_with(bytes, "BM")) return "BMP";
  if (starts_with(bytes, {"II*\0", 4}) || starts_with(bytes, {"MM\0*", 4})) return "TIFF";
  if (starts_with(bytes, "ftypavi", 4)) return "AVIF";
  for (const char* brand : {"ftyphei", "ftyphev", "ftypmif1", "ftypmsf1"})
    if (starts_with(bytes, brand, 4)) return "HEIC";
  if (starts_with(bytes, "jP  ", 4)) return "JPEG 2000";
  if (starts_with(bytes, "JXL ", 4) || starts_with(bytes, "\xFF\x0A")) return "JPEG XL";
  if (starts_with(bytes, "8BPS")) return "Photoshop";
  if (starts_with(bytes, "%PDF")) return "PDF";
  return "";
}

}  // namespace

ImageHeader read_image_header(Bytes bytes, const std::string& where) {
  if (bytes.empty()) corrupt(where, "the file is empty");
  if (starts_with(bytes, "\x89PNG\r\n\x1A\n")) return read_png(bytes, where);
  if (starts_with(bytes, "\xFF\xD8\xFF")) return read_jpeg(bytes, where);
  if (starts_with(bytes, "RIFF") && starts_with(bytes, "WEBP", 8)) return read_webp(bytes, where);
  const std::string_view other = other_format(bytes);
  if (!other.empty()) unsupported(where, fmt::format("{} pictures can't be read; {}", other, kSupported));
  corrupt(where, fmt::format("not a picture (by its first bytes); {}", kSupported));
}

}  // namespace vlmzoo
