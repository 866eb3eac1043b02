#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../support.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/log.hpp"

namespace {

using vlmzoo::ErrorCode;
using vlmzoo::Image;

const std::filesystem::path kImages = std::filesystem::path(VLMZOO_TEST_DATA) / "data" / "images";

/// The CMYK and 16-bit warnings are wanted, but not in the test's output.
struct Quiet {
  vlmzoo::LogLevel before = vlmzoo::log_level();
  Quiet() { vlmzoo::set_log_level(vlmzoo::LogLevel::kQuiet); }
  ~Quiet() { vlmzoo::set_log_level(before); }
};

std::string content_of(const std::string& name) { return vlmzoo::read_file(kImages / name); }

Image decode(std::string_view content) {
  return vlmzoo::decode_image({reinterpret_cast<const std::uint8_t*>(content.data()), content.size()}, "pic");
}

/// The error that decoding gives; a picture that decodes fails the test.
vlmzoo::Error error_of(std::string_view content) {
  try {
    decode(content);
  } catch (const vlmzoo::Error& error) {
    return error;
  }
  FAIL("decoded without an error");
  return {ErrorCode::kInternal, ""};
}

void check_error(std::string_view content, ErrorCode code, std::string_view part) {
  const vlmzoo::Error error = error_of(content);
  CHECK(error.code() == code);
  CHECK_MESSAGE(std::string_view(error.what()).find(part) != std::string_view::npos, error.what());
  CHECK_MESSAGE(std::string_view(error.what()).starts_with("pic: "), error.what());
}

std::string big_endian(std::uint32_t value) {
  std::string text;
  for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift);
  return text;
}

std::string png_chunk(const std::string& type, const std::string& data) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : type + data) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320U : 0U);
  }
  return big_endian(static_cast<std::uint32_t>(data.size())) + type + data + big_endian(~crc);
}

std::string png_header(std::uint32_t width, std::uint32_t height, char depth, char colour) {
  const std::string tail{depth, colour, 0, 0, 0};
  return "\x89PNG\r\n\x1A\n" + png_chunk("IHDR", big_endian(width) + big_endian(height) + tail);
}

/// The file with the first occurrence of `from` replaced.
std::string replaced(std::string content, std::string_view from, std::string_view to) {
  const std::size_t at = content.find(from);
  REQUIRE(at != std::string::npos);
  return content.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("load_image gives Pillow's pixels for every kind of picture") {
  const Quiet quiet;
  const vlmzoo::Json goldens = vlmzoo::read_json(std::filesystem::path(VLMZOO_TEST_DATA) / "goldens" / "images.json");
  REQUIRE(goldens.at("decode").size() >= 70);
  for (const auto& [name, golden] : goldens.at("decode").items()) {
    CAPTURE(name);
    const Image image = vlmzoo::load_image(kImages / name);
    CHECK(image.width == golden.at(0).get<std::int64_t>());
    CHECK(image.height == golden.at(1).get<std::int64_t>());
    CHECK(vlmzoo::sha256(std::as_bytes(std::span(image.pixels))) == golden.at(2).get<std::string>());
  }
}

TEST_CASE(
    "a CMYK JPEG is within 2 of Pillow's colours") {  // 2: OpenCV divides by 256 and cuts, Pillow by 255 and rounds
  const Quiet quiet;
  const Image image = decode(content_of("formats/jpeg_cmyk.jpg"));
  const Image expected = decode(content_of("formats/jpeg_cmyk_expected.png"));
  REQUIRE(image.pixels.size() == expected.pixels.size());
  int largest = 0;
  for (std::size_t i = 0; i < image.pixels.size(); ++i)
    largest = std::max(largest, std::abs(image.pixels[i] - expected.pixels[i]));
  CHECK(largest <= 2);
}

TEST_CASE("bytes after the end of a picture don't matter") {
  for (const char* name : {"formats/jpeg_420.jpg", "formats/rgb8.png", "formats/webp_lossy_rgb.webp"}) {
    CAPTURE(name);
    const std::string content = content_of(name);
    CHECK(decode(content + "\xFF\xD8\xFF\xE0 and more").pixels == decode(content).pixels);
  }
}

TEST_CASE("a picture cut anywhere is corrupt, whatever its format") {
  for (const char* name : {"formats/jpeg_420.jpg", "formats/jpeg_444_progressive.jpg", "formats/exif6.jpg",
                           "formats/rgb8.png", "formats/palette4.png", "formats/grey16_interlaced.png",
                           "formats/webp_lossy_rgba.webp", "formats/webp_lossless_rgb.webp", "formats/exif6.webp"}) {
    const std::string content = content_of(name);
    for (std::size_t length = 0; length < content.size(); ++length) {
      CAPTURE(name);
      CAPTURE(length);
      CHECK(error_of(std::string_view(content).substr(0, length)).code() == ErrorCode::kCorrupt);
    }
  }
}

TEST_CASE("files that are no pictures say so") {
  check_error("", ErrorCode::kCorrupt, "empty");
  check_error("Hello, this is text.\n", ErrorCode::kCorrupt, "supported are PNG, JPEG and WebP");
  check_error(std::string(1000, '\0'), ErrorCode::kCorrupt, "not a picture");
}

TEST_CASE("other picture formats are named") {
  using namespace std::string_literals;
  const std::pair<std::string, const char*> others[] = {
      {"GIF89a-----------"s, "GIF"},
      {"BM--------------"s, "BMP"},
      {"II*\0------------"s, "TIFF"},
      {"MM\0*------------"s, "TIFF"},
      {"\0\0\0\x18"
       "ftypheic----"s,
       "HEIC"},
      {"\0\0\0\x18"
       "ftypmif1----"s,
       "HEIC"},
      {"\0\0\0\x18"
       "ftypavif----"s,
       "AVIF"},
      {"\0\0\0\x0CJXL \r\n\x87\n----"s, "JPEG XL"},
      {"\0\0\0\x0CjP  \r\n\x87\n----"s, "JPEG 2000"},
  };
  for (const auto& [content, name] : others) {
    check_error(content, ErrorCode::kUnsupported, name);
    check_error(content, ErrorCode::kUnsupported, "supported are PNG, JPEG and WebP");
  }
  check_error(content_of("formats/animated.webp"), ErrorCode::kUnsupported, "animated");
}

TEST_CASE("a picture that is too large is refused by its header alone") {
  check_error(png_header(60000, 60000, 8, 2), ErrorCode::kMemory, "60000×60000 = 3600000000");
  check_error(png_header(60000, 60000, 8, 2), ErrorCode::kMemory, "50000000");
  check_error(png_header(0x7FFFFFFF, 0x7FFFFFFF, 8, 2), ErrorCode::kMemory, "limit");
  check_error(png_header(0xFFFFFFFF, 0xFFFFFFFF, 8, 2), ErrorCode::kMemory, "limit");
  check_error(png_header(65536, 1, 8, 2), ErrorCode::kUnsupported, "at most 65535");
  const std::string jpeg = content_of("formats/jpeg_420.jpg");  // 61×47
  using namespace std::string_literals;
  check_error(replaced(jpeg, "\x08\x00\x2F\x00\x3D"s, "\x08\xFF\xFF\xFF\xFF"s), ErrorCode::kMemory, "65535×65535");
  const std::string webp = content_of("formats/exif6.webp");  // 37×23
  check_error(replaced(webp, "\x24\0\0\x16\0\0"s, "\xFF\xFF\0\xFF\xFF\0"s), ErrorCode::kMemory, "65536×65536");
}

TEST_CASE("impossible PNG headers are corrupt") {
  check_error(png_header(0, 5, 8, 2), ErrorCode::kCorrupt, "0×5");
  check_error(png_header(5, 5, 3, 0), ErrorCode::kCorrupt, "bit depth 3");
  check_error(png_header(5, 5, 16, 3), ErrorCode::kCorrupt, "colour type 3");
  check_error(png_header(5, 5, 8, 7), ErrorCode::kCorrupt, "colour type 7");
  check_error(png_header(5, 5, 8, 2) + png_header(5, 5, 8, 2).substr(8), ErrorCode::kCorrupt, "IHDR");
  check_error(png_header(5, 5, 8, 2) + png_chunk("IEND", ""), ErrorCode::kCorrupt, "without picture data");
  check_error(png_header(5, 5, 8, 3) + png_chunk("IDAT", "x"), ErrorCode::kCorrupt, "without a palette");
  check_error(png_header(5, 5, 8, 3) + png_chunk("PLTE", "1234"), ErrorCode::kCorrupt, "palette of 4 bytes");
  check_error("\x89PNG\r\n\x1A\n" + png_chunk("IDAT", "x"), ErrorCode::kCorrupt, "IHDR");
}

TEST_CASE("a flipped bit in a PNG is found by its CRC") {
  const std::string content = content_of("formats/palette4.png");
  for (std::size_t at = 0; at < content.size(); ++at) {
    std::string broken = content;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    CAPTURE(at);
    const bool in_header = at < 33;  // where it may become an impossible size as well
    CHECK((error_of(broken).code() == ErrorCode::kCorrupt || in_header));
  }
  check_error(replaced(content, "IDAT\x78", "IDAT\x79"), ErrorCode::kCorrupt, "CRC");
}

TEST_CASE("impossible JPEG headers are refused") {
  using namespace std::string_literals;
  const std::string jpeg = content_of("formats/jpeg_420.jpg");
  const std::string frame = "\xFF\xC0\x00\x11\x08\x00\x2F\x00\x3D\x03"s;
  check_error(replaced(jpeg, frame, "\xFF\xC0\x00\x11\x08\x00\x00\x00\x3D\x03"s), ErrorCode::kCorrupt, "61×0");
  check_error(replaced(jpeg, frame, "\xFF\xC0\x00\x11\x0C\x00\x2F\x00\x3D\x03"s), ErrorCode::kUnsupported, "12 bits");
  check_error(replaced(jpeg, frame, "\xFF\xC3\x00\x11\x08\x00\x2F\x00\x3D\x03"s), ErrorCode::kUnsupported, "SOF3");
  check_error(replaced(jpeg, frame, "\xFF\xC0\x00\x11\x08\x00\x2F\x00\x3D\x02"s), ErrorCode::kUnsupported,
              "2 components");
  check_error(replaced(jpeg, frame, "\xFF\xC0\x00\x01\x08\x00\x2F\x00\x3D\x03"s), ErrorCode::kCorrupt, "segment");
  check_error("\xFF\xD8\xFF\xD9"s, ErrorCode::kCorrupt, "without picture data");
}

TEST_CASE("broken metadata doesn't keep a picture from being read") {
  using namespace std::string_literals;
  const std::string content = content_of("formats/exif6.jpg");
  const Image turned = decode(content);
  CHECK(turned.width == 23);
  for (const auto& [from, to] : {std::pair{"II*\0"s, "II+\0"s}, {"MM\0*"s, "XX\0*"s}}) {
    if (content.find(from) == std::string::npos) continue;
    CHECK(decode(replaced(content, from, to)).width == 37);
  }
  // Directory far outside, and one that ends after its count.
  const std::string order = content.find("II*\0"s) != std::string::npos ? "II*\0"s : "MM\0*"s;
  const std::size_t at = content.find(order);
  for (const char* offset : {"\xFF\xFF\xFF\xFF", "\x7F\xFF\xFF\xFF", "\xFF\xFF\xFF\x7F"}) {
    std::string broken = content;
    broken.replace(at + 4, 4, offset, 4);
    CHECK(decode(broken).width == 37);
  }
}

TEST_CASE("load_image names the file and tells apart what is wrong") {
  const auto folder = std::filesystem::temp_directory_path() / ("vlmzoo_image_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "text.png") << "no picture";
  const auto code_and_text = [](const std::filesystem::path& path) {
    try {
      vlmzoo::load_image(path);
    } catch (const vlmzoo::Error& error) {
      CHECK_MESSAGE(std::string_view(error.what()).find(path.filename().string()) != std::string_view::npos,
                    error.what());
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  CHECK(code_and_text(folder / "absent.png") == ErrorCode::kNotFound);
  CHECK(code_and_text(folder / "text.png") == ErrorCode::kCorrupt);
  CHECK(code_and_text(folder) == ErrorCode::kIo);
  std::filesystem::remove_all(folder);
}
