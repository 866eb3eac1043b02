#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/random.hpp"

namespace {

using vlmzoo::Image;
using vlmzoo::Random;
using vlmzoo::Resample;

/// The formula of `source` in tests/reference/make_image_goldens.py.
Image source(std::int64_t width, std::int64_t height) {
  Image image{width, height, {}};
  image.pixels.reserve(static_cast<std::size_t>(width * height * 3));
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      for (std::int64_t c = 0; c < 3; ++c) {
        const std::uint64_t noise = Random(static_cast<std::uint64_t>((y * width + x) * 3 + c)).next();
        const std::uint64_t hard = (noise & 128) != 0 ? 255 : 0;
        const std::uint64_t rough = (noise & 256) != 0 ? hard : noise & 255;
        const auto gradient = static_cast<std::uint64_t>(x * 5 + y * 3 + c * 85) & 255;
        image.pixels.push_back(static_cast<std::uint8_t>(((x >> 3) + (y >> 3)) & 1 ? gradient : rough));
      }
    }
  }
  return image;
}

std::string digest(const Image& image) { return vlmzoo::sha256(std::as_bytes(std::span(image.pixels))); }

template <typename Function>
vlmzoo::ErrorCode code_of(Function function) {
  try {
    function();
  } catch (const vlmzoo::Error& error) {
    return error.code();
  }
  FAIL("no error");
  return vlmzoo::ErrorCode::kInternal;
}

}  // namespace

TEST_CASE("resize gives Pillow's pixels, bit for bit") {
  const vlmzoo::Json goldens = vlmzoo::read_json(std::filesystem::path(VLMZOO_TEST_DATA) / "goldens" / "images.json");
  std::size_t bicubic = 0, bilinear = 0;
  for (const vlmzoo::Json& golden : goldens.at("resize")) {
    const bool cubic = golden.at(0) == "bicubic";
    const std::int64_t width = golden.at(3), height = golden.at(4);
    const Image resized = vlmzoo::resize(source(golden.at(1), golden.at(2)), width, height,
                                         cubic ? Resample::kBicubic : Resample::kBilinear);
    CAPTURE(golden.dump());
    CHECK(resized.width == width);
    CHECK(resized.height == height);
    CHECK(digest(resized) == golden.at(5).get<std::string>());
    ++(cubic ? bicubic : bilinear);
  }
  CHECK(bicubic >= 400);
  CHECK(bilinear >= 400);
}

TEST_CASE("resize to the same size changes nothing") {
  const Image image = source(40, 30);
  CHECK(vlmzoo::resize(image, 40, 30, Resample::kBicubic).pixels == image.pixels);
  CHECK(vlmzoo::resize(image, 40, 30, Resample::kBilinear).pixels == image.pixels);
}

TEST_CASE("resize keeps one colour as it is at any size") {
  for (const int value : {0, 1, 128, 254, 255}) {
    const Image image{13, 7, std::vector<std::uint8_t>(13 * 7 * 3, static_cast<std::uint8_t>(value))};
    for (const Resample resample : {Resample::kBicubic, Resample::kBilinear}) {
      for (const auto& [width, height] : {std::pair{1, 1}, {5, 90}, {200, 3}, {333, 331}}) {
        const Image resized = vlmzoo::resize(image, width, height, resample);
        CHECK(std::ranges::all_of(resized.pixels, [&](std::uint8_t pixel) { return pixel == value; }));
      }
    }
  }
}

TEST_CASE("resize takes the longest side there is") {
  const Image line = source(65535, 1);
  const Image resized = vlmzoo::resize(line, 1, 65535, Resample::kBicubic);
  CHECK(resized.pixels.size() == 65535 * 3);
  CHECK(vlmzoo::resize(resized, 65535, 1, Resample::kBilinear).pixels.size() == 65535 * 3);  // height first
}

TEST_CASE("resize refuses empty pictures and impossible sizes") {
  using vlmzoo::ErrorCode;
  const Image image = source(4, 4);
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t side : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{65536}, kHuge}) {
    CAPTURE(side);
    CHECK(code_of([&] { vlmzoo::resize(image, side, 4, Resample::kBicubic); }) == ErrorCode::kMismatch);
    CHECK(code_of([&] { vlmzoo::resize(image, 4, side, Resample::kBilinear); }) == ErrorCode::kMismatch);
    CHECK(code_of([&] {
            vlmzoo::resize({side, side, image.pixels}, 4, 4, Resample::kBicubic);
          }) == ErrorCode::kMismatch);
  }
  CHECK(code_of([] { vlmzoo::resize({}, 4, 4, Resample::kBicubic); }) == ErrorCode::kMismatch);
  CHECK(code_of([&] { vlmzoo::resize({4, 5, image.pixels}, 2, 2, Resample::kBicubic); }) == ErrorCode::kMismatch);
  CHECK(code_of([&] { vlmzoo::resize(image, 65535, 65535, Resample::kBicubic); }) == ErrorCode::kMemory);
  const Image tall{1, 65535, std::vector<std::uint8_t>(65535 * 3)};
  CHECK(code_of([&] { vlmzoo::resize(tall, 4000, 65535, Resample::kBicubic); }) == ErrorCode::kMemory);
}

TEST_CASE("crop copies the rectangle") {
  const Image image = source(10, 8);
  const Image part = vlmzoo::crop(image, 3, 2, 4, 5);
  CHECK(part.width == 4);
  CHECK(part.height == 5);
  REQUIRE(part.pixels.size() == 4 * 5 * 3);
  std::size_t wrong = 0;
  for (std::size_t y = 0; y < 5; ++y)
    for (std::size_t i = 0; i < 12; ++i) wrong += part.pixels[y * 12 + i] != image.pixels[((y + 2) * 10 + 3) * 3 + i];
  CHECK(wrong == 0);
  CHECK(vlmzoo::crop(image, 0, 0, 10, 8).pixels == image.pixels);
}

TEST_CASE("crop refuses rectangles that don't lie inside") {
  const Image image = source(10, 8);
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  const std::int64_t wrong[][4] = {{-1, 0, 4, 4}, {0, -1, 4, 4}, {7, 0, 4, 4},     {0, 5, 4, 4},     {0, 0, 0, 4},
                                   {0, 0, 4, 0},  {0, 0, 11, 8}, {kHuge, 0, 4, 4}, {0, 0, 4, kHuge}, {1, 1, kHuge, 1}};
  for (const auto& [left, top, width, height] : wrong) {
    CAPTURE(left);
    CAPTURE(top);
    CAPTURE(width);
    CAPTURE(height);
    CHECK(code_of([&] { vlmzoo::crop(image, left, top, width, height); }) == vlmzoo::ErrorCode::kMismatch);
  }
}
