#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <opencv2/core/version.hpp>
#include <opencv2/imgproc.hpp>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "commands.hpp"
#include "data/dataset.hpp"
#include "data/ordered_stream.hpp"
#include "data/regions.hpp"
#include "support.hpp"
#include "synth/receipt_set.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/json.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;
using synth::draw_receipts;
using synth::Drawn;
using synth::truth_of;
using test::code_of;

std::string digest(const Drawn& drawn) {
  const cv::Mat& pixels = drawn.scene.pixels;
  return sha256(std::as_bytes(std::span(pixels.data, pixels.total() * pixels.elemSize())));
}

/// The exit code of the built program; its messages go to `log`.
int run_program(const std::string& before, const std::string& arguments, const fs::path& log) {
  const std::string command =
      fmt::format("{} {} {} >'{}' 2>&1 </dev/null", before, VLMZOO_PROGRAM, arguments, log.string());
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int draw(const std::vector<std::string>& arguments) { return run_synth(arguments); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(folder)) result.push_back(entry.path().filename().string());
  std::sort(result.begin(), result.end());
  return result;
}

/// A picture as 256 grey values and its class.
struct Thumbnail {
  std::vector<float> values;
  std::int64_t label;
};

Thumbnail make_thumbnail(std::int64_t index) {
  const Drawn drawn = draw_receipts(/*seed=*/3, index, /*size=*/96);
  cv::Mat grey, small;
  cv::cvtColor(drawn.scene.pixels, grey, cv::COLOR_BGR2GRAY);
  cv::resize(grey, small, cv::Size(16, 16), 0, 0, cv::INTER_AREA);
  return {{small.begin<std::uint8_t>(), small.end<std::uint8_t>()}, std::min(drawn.truth.count, 2)};
}

}  // namespace

TEST_CASE("a picture depends on seed and index alone") {
  const Drawn first = draw_receipts(7, 5, 128);
  CHECK(digest(first) == digest(draw_receipts(7, 5, 128)));
  CHECK(first.jpeg == draw_receipts(7, 5, 128).jpeg);
  CHECK(digest(first) != digest(draw_receipts(7, 6, 128)));
  CHECK(digest(first) != digest(draw_receipts(8, 5, 128)));
}

TEST_CASE("pictures are the same on every machine") {
  if (std::string(CV_VERSION) != "4.6.0") {
    MESSAGE("skipped: the digests are those of OpenCV 4.6.0, this is " CV_VERSION);
    return;
  }
  std::string all;
  for (std::int64_t index = 0; index < 24; ++index) all += digest(draw_receipts(2024, index, 224));
  CHECK(sha256(std::as_bytes(std::span(all))) == "fac4e3f96f5911bede4ebf89a49f710ff8bd7c8bf09650f22d0f92263583ef1f");
}

TEST_CASE("classes are balanced, and every beginning of a class is split 70 : 15 : 15") {
  std::map<std::string, std::map<std::string, double>> counts;
  std::map<int, int> receipts;
  for (std::int64_t index = 0; index < 3000; ++index) {
    const synth::Truth truth = truth_of(11, index);
    auto& of_class = counts[truth.label];
    ++of_class[truth.split];
    ++receipts[truth.count];
    const double total = of_class["train"] + of_class["val"] + of_class["test"];
    REQUIRE(std::abs(of_class["train"] - 0.7 * total) < 1);
    REQUIRE(std::abs(of_class["val"] - 0.15 * total) < 1);
    REQUIRE(std::abs(of_class["test"] - 0.15 * total) < 1);
    REQUIRE(std::abs(total - static_cast<double>(index) / 3) <= 1);
    REQUIRE(truth.label == (truth.count == 0 ? "none" : truth.count == 1 ? "one" : "several"));
  }
  CHECK(counts["none"]["test"] == 150);
  CHECK(counts["one"]["val"] == 150);
  CHECK(counts["several"]["train"] == 700);
  for (const int count : {2, 3, 4}) CHECK(receipts[count] > 280);  // of 333; 3 standard deviations are 45
}

TEST_CASE("answers name the class first") {
  std::set<std::string> answers;
  for (std::int64_t index = 0; index < 100; ++index) answers.insert(truth_of(0, index).answer);
  CHECK(answers == std::set<std::string>{"there are none", "there is one receipt", "there are several receipts : two",
                                         "there are several receipts : three", "there are several receipts : four"});
}

TEST_CASE("there are as many receipts as the truth says, and all of them can be seen") {
  for (std::int64_t index = 0; index < 60; ++index) {
    const Drawn drawn = draw_receipts(5, index, 64);
    REQUIRE(static_cast<int>(drawn.scene.receipts.size()) == drawn.truth.count);
    for (const synth::Region& region : drawn.scene.receipts) {
      CHECK(region.visible >= synth::kLeastVisible);
      CHECK(synth::area(region.corners) > 64 * 64 * 0.008);
    }
  }
}

TEST_CASE("a set is complete, reads back as it was drawn, and is the beginning of a larger one") {
  const test::TemporaryFolder folder;
  const fs::path small = folder / "small", large = folder / "large";
  const fs::path log = folder / "log";
  REQUIRE(run_program("", fmt::format("synth receipts --count 7 --seed 4 --output '{}'", small.string()), log) == 0);
  REQUIRE(run_program("", fmt::format("synth receipts --count 30 --seed 4 --threads 2 --output '{}'", large.string()),
                      log) == 0);
  const std::vector<std::string> files = {"contact_sheet.png", "images", "labels.csv", "regions.jsonl", "synth.json"};
  CHECK(names_in(small) == files);
  CHECK(names_in(small / "images").size() == 7);
  CHECK(names_in(large / "images").size() == 30);
  CHECK(read_file(large / "labels.csv").starts_with(read_file(small / "labels.csv")));
  CHECK(read_file(large / "regions.jsonl").starts_with(read_file(small / "regions.jsonl")));
  for (const std::string& name : names_in(small / "images")) {
    CHECK(read_file(small / "images" / name) == read_file(large / "images" / name));
  }

  DataRequest request;
  request.path = large;
  request.split = "all";
  const Dataset data = load_dataset(request);
  const auto regions = read_regions(large / "regions.jsonl");
  CHECK(data.class_names == std::vector<std::string>{"none", "one", "several"});
  CHECK(data.class_counts() == std::vector<std::int64_t>{10, 10, 10});
  REQUIRE(data.samples.size() == 30);
  for (std::int64_t i = 0; i < 30; ++i) {
    const Sample& sample = data.samples[static_cast<std::size_t>(i)];
    const synth::Truth truth = truth_of(4, i);
    CHECK(sample.id == truth.image);
    CHECK(sample.count == truth.count);
    CHECK(sample.answer == truth.answer);
    CHECK(sample.split == truth.split);
    const Image image = load_image(sample.image);
    CHECK(image.width == 224);
    CHECK(image.height == 224);
    REQUIRE(regions.at(sample.id).size() == static_cast<std::size_t>(truth.count));
  }
  const Drawn drawn = draw_receipts(4, 2, 224);
  for (std::size_t i = 0; i < drawn.scene.receipts.size(); ++i) {
    const auto& corner = regions.at(drawn.truth.image)[i].corners[2];
    CHECK(corner[0] * 224 == doctest::Approx(drawn.scene.receipts[i].corners[2].x).epsilon(0.001));
    CHECK(corner[1] * 224 == doctest::Approx(drawn.scene.receipts[i].corners[2].y).epsilon(0.001));
  }
}

TEST_CASE("one picture is a set too") {
  const test::TemporaryFolder folder;
  const std::string output = (folder / "set").string();
  CHECK(run_program("", fmt::format("synth receipts --count 1 --size 64 --output '{}'", output), folder / "log") == 0);
  CHECK(load_image(folder / "set/contact_sheet.png").width == 180);
  CHECK(read_json(folder / "set/synth.json")["count"] == 1);
}

TEST_CASE("wrong arguments of synth are usage errors") {
  const test::TemporaryFolder folder;
  const std::string output = (folder / "set").string();
  CHECK(code_of([&] { draw({"--count", "1", "--output", output}); }) == ErrorCode::kUsage);
  CHECK(code_of([&] { draw({"invoices", "--count", "1", "--output", output}); }) == ErrorCode::kUsage);
  CHECK(code_of([&] { draw({"receipts", "--output", output}); }) == ErrorCode::kUsage);
  CHECK(code_of([&] { draw({"receipts", "--count", "1"}); }) == ErrorCode::kUsage);
  for (const char* count : {"0", "-3", "x", "1e3", "99999999999"}) {
    CHECK(code_of([&] { draw({"receipts", "--count", count, "--output", output}); }) == ErrorCode::kUsage);
  }
  CHECK(code_of([&] { draw({"receipts", "--count", "1", "--size", "8", "--output", output}); }) == ErrorCode::kUsage);
  CHECK(code_of([&] { draw({"receipts", "--count", "1", "--output", output + "/deep/set"}); }) == ErrorCode::kNotFound);
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("a folder in use is not replaced, except a set by --force") {
  const test::TemporaryFolder folder;
  const fs::path output = folder / "set";
  const std::vector<std::string> once = {"receipts", "--count", "2", "--size", "64", "--output", output.string()};
  std::vector<std::string> force = once;
  force.emplace_back("--force");
  fs::create_directory(output);
  CHECK(draw(once) == 0);  // an empty folder is free
  CHECK(code_of([&] { draw(once); }) == ErrorCode::kUsage);
  force[2] = "3";
  CHECK(draw(force) == 0);
  CHECK(names_in(output / "images").size() == 3);
  write_file(output / "images" / "holiday.jpg", "mine");
  CHECK(code_of([&] { draw(force); }) == ErrorCode::kUsage);
  fs::remove(output / "images" / "holiday.jpg");
  write_file(output / "notes.txt", "mine");
  CHECK(code_of([&] { draw(force); }) == ErrorCode::kUsage);
  CHECK(read_file(output / "notes.txt") == "mine");
  write_file(folder / "file", "mine");
  CHECK(code_of([&] { draw({"receipts", "--count", "1", "--output", (folder / "file").string()}); }) == ErrorCode::kIo);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"file", "set"});
}

TEST_CASE("a write fault and Ctrl-C leave no half set behind") {
  const test::TemporaryFolder folder, logs;
  const std::string arguments =
      fmt::format("synth receipts --count 100000 --size 64 --output '{}'", (folder / "set").string());
  // No file may grow beyond 1 KiB: the first picture is larger.
  CHECK(run_program("ulimit -f 1;", arguments + " --threads 1", logs / "log") == 1);
  CHECK(contains(read_file(logs / "log"), "cannot write"));
  CHECK(names_in(folder.path()).empty());
  CHECK(run_program("timeout --foreground -s INT 1", arguments, logs / "log") == 124);
  CHECK(contains(read_file(logs / "log"), "interrupted"));
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("a wrong regions.jsonl is told with file and line") {
  const test::TemporaryFolder folder;
  const fs::path file = folder / "regions.jsonl";
  for (const char* row :
       {"{", "[]", R"({"image": "a.jpg"})", R"({"image": "a.jpg", "size": 0, "receipts": []})",
        R"({"image": 1, "size": 9, "receipts": []})", R"({"image": "a", "size": 9, "receipts": [1]})",
        R"({"image": "a", "size": 9, "receipts": [{"polygon": [[0, 0], [0, 1], [1, 1]]}]})",
        R"({"image": "a", "size": 9, "receipts": [{"polygon": [[0, 0], [0, 1], [1, 1], ["x", 0]]}]})"}) {
    write_file(file, fmt::format("{}\n{}\n", R"({"image": "b", "size": 9, "receipts": []})", row));
    std::string message;
    try {
      read_regions(file);
    } catch (const Error& error) {
      message = error.what();
    }
    CAPTURE(row);
    CHECK(contains(message, "regions.jsonl:2"));
  }
}

TEST_CASE("a thumbnail doesn't give the class away") {
  constexpr std::int64_t kCount = 1500, kTrain = 1200;
  std::vector<float> values;
  std::vector<std::int64_t> labels;
  OrderedStream<Thumbnail> stream(kCount, make_thumbnail);
  while (const auto thumbnail = stream.next()) {
    values.insert(values.end(), thumbnail->values.begin(), thumbnail->values.end());
    labels.push_back(thumbnail->label);
  }
  at::Tensor x = at::from_blob(values.data(), {kCount, 256}, at::kFloat);
  const at::Tensor y = at::from_blob(labels.data(), {kCount}, at::kLong);
  x = (x - x.mean(0)) / x.std(0);

  // Logistic regression by gradient descent with momentum. The penalty is the one that tested best of 1e-4 to 1e-1.
  at::Tensor weights = at::zeros({256, 3}).requires_grad_(true), bias = at::zeros({3}).requires_grad_(true);
  at::Tensor speed = at::zeros({256, 3});
  for (int step = 0; step < 300; ++step) {
    const at::Tensor loss =
        at::cross_entropy_loss(x.slice(0, 0, kTrain).matmul(weights) + bias, y.slice(0, 0, kTrain)) +
        0.1 * weights.square().sum();
    loss.backward();
    speed = 0.9 * speed + weights.grad();
    weights = (weights - 0.02 * speed).detach().requires_grad_(true);
    bias = (bias - 0.1 * bias.grad()).detach().requires_grad_(true);
  }
  const at::Tensor right = (x.matmul(weights) + bias).argmax(1).eq(y).to(at::kFloat);
  const double trained = right.slice(0, 0, kTrain).mean().item<double>();
  const double fresh = right.slice(0, kTrain).mean().item<double>();
  MESSAGE("accuracy on thumbnails: " << trained << " of those trained on, " << fresh << " of fresh ones");
  CHECK(trained > 0.4);  // it does learn
  CHECK(fresh < 0.6);
}

}  // namespace vlmzoo::app
