#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "data/ordered_stream.hpp"
#include "data/picture_stream.hpp"
#include "support.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using test::code_of;

const fs::path kImages = fs::path(VLMZOO_TEST_DATA) / "data" / "images";

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The message of the Error that the next item is.
template <class T>
std::string fault_of_next(OrderedStream<T>& stream) {
  try {
    stream.next();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("items come in order however long each takes") {
  constexpr std::int64_t kCount = 60;
  OrderedStream<std::int64_t> stream(kCount,
                                     [](std::int64_t i) {
                                       std::this_thread::sleep_for(milliseconds(i % 7 == 0 ? 5 : 0));
                                       return i * i;
                                     },
                                     {.threads = 4, .ahead = 9});
  for (std::int64_t i = 0; i < kCount; ++i) CHECK(stream.next() == i * i);
  CHECK_FALSE(stream.next());
  CHECK_FALSE(stream.next());
}

TEST_CASE("a stream of nothing ends at once") {
  OrderedStream<int> stream(0, [](std::int64_t) { return 1; });
  CHECK_FALSE(stream.next());
}

TEST_CASE("no more items exist than were asked for, and they are made before they are asked for") {
  constexpr std::int64_t kAhead = 5;
  std::atomic<std::int64_t> made{0};
  OrderedStream<int> stream(100, [&](std::int64_t) { return static_cast<int>(++made); },
                            {.threads = 3, .ahead = kAhead});
  for (std::int64_t given = 0; given < 20; ++given) {
    // Waits until the queue is full; it must never be more than that.
    for (int i = 0; i < 2000 && made < given + kAhead; ++i) std::this_thread::sleep_for(milliseconds(1));
    std::this_thread::sleep_for(milliseconds(1));
    REQUIRE(made == given + kAhead);
    REQUIRE(stream.next());
  }
}

TEST_CASE("items are made at the same time") {
  std::atomic<int> running{0}, most{0};
  OrderedStream<int> stream(4,
                            [&](std::int64_t) {
                              const int now = ++running;
                              for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
                              }
                              for (int i = 0; i < 2000 && most < 2; ++i) std::this_thread::sleep_for(milliseconds(1));
                              --running;
                              return 0;
                            },
                            {.threads = 2, .ahead = 4});
  while (stream.next()) {
  }
  CHECK(most == 2);
}

TEST_CASE("what the making of an item throws comes at its turn, and the rest goes on") {
  OrderedStream<int> stream(6,
                            [](std::int64_t i) {
                              if (i == 2) throw std::runtime_error("broken");
                              return static_cast<int>(i);
                            },
                            {.threads = 3, .ahead = 6});
  CHECK(stream.next() == 0);
  CHECK(stream.next() == 1);
  CHECK_THROWS_WITH_AS(stream.next(), "broken", std::runtime_error);
  CHECK(stream.next() == 3);
  CHECK(stream.next() == 4);
  CHECK(stream.next() == 5);
  CHECK_FALSE(stream.next());
}

TEST_CASE("a stream that is left early stops its threads and frees its items") {
  const auto counted = std::make_shared<int>(0);
  {
    OrderedStream<std::shared_ptr<int>> stream(1000000, [&](std::int64_t) { return counted; },
                                               {.threads = 4, .ahead = 16});
    CHECK(stream.next());
  }
  CHECK(counted.use_count() == 1);
}

TEST_CASE("pictures are decoded, resized, and a broken one is named at its turn") {
  const test::TemporaryFolder folder;
  const fs::path broken = folder / "broken.jpg";
  std::ofstream(broken) << "no picture";
  const std::vector<fs::path> files = {kImages / "square.png", broken, folder / "missing.png",
                                       kImages / "portrait.jpg"};

  auto stream = stream_pictures(files, 32, {.threads = 2, .ahead = 4});
  const auto first = stream.next();
  REQUIRE(first);
  CHECK(first->pixels == resize(load_image(files[0]), 32, 32, Resample::kBicubic).pixels);
  CHECK(contains(fault_of_next(stream), broken.string()));
  CHECK(contains(fault_of_next(stream), "missing.png"));
  CHECK(stream.next()->width == 32);
  CHECK_FALSE(stream.next());
}

TEST_CASE("whatever fails while a picture is made into something, the message names it") {
  const fs::path file = kImages / "square.png";
  const auto make = [](const Image&, std::int64_t index) -> int {
    if (index == 0) throw std::runtime_error("no such luck");
    if (index == 1) throw std::bad_alloc();
    throw Error(ErrorCode::kMismatch, "too small");
  };
  auto stream = stream_pictures<int>({file, file, file}, make, {.threads = 1, .ahead = 1});
  CHECK(fault_of_next(stream) == file.string() + ": no such luck");
  CHECK(fault_of_next(stream) == file.string() + ": out of memory");
  CHECK(code_of([&] { stream.next(); }) == ErrorCode::kMismatch);
}

}  // namespace vlmzoo::app
