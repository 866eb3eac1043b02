#include "synth/receipt_set.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <span>

#include "data/ordered_stream.hpp"
#include "output.hpp"
#include "synth/camera.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/progress.hpp"

namespace vlmzoo::app::synth {
namespace {

namespace fs = std::filesystem;

constexpr std::array kLabels = {"none", "one", "several"};
constexpr std::array kWords = {"", "", "two", "three", "four"};

/// The n-th number of the stream that belongs to a seed: a seed for one picture.
std::uint64_t seed_of(std::int64_t seed, const char* purpose, std::int64_t n) {
  const std::uint64_t start = Random(static_cast<std::uint64_t>(seed) ^ fnv1a(purpose)).next();
  return Random(start + static_cast<std::uint64_t>(n) * Random::kStep).next();
}

std::string answer_of(int count) {
  if (count == 0) return "there are none";
  if (count == 1) return "there is one receipt";
  return fmt::format("there are several receipts : {}", kWords[static_cast<std::size_t>(count)]);
}

/// Any beginning of a class is as near to 70, 15 and 15 % as whole pictures can be.
const char* split_of(std::int64_t number_in_class) {
  const std::int64_t place = number_in_class % 20;
  if (place == 1 || place == 8 || place == 15) return "test";
  if (place == 4 || place == 11 || place == 18) return "val";
  return "train";
}

[[noreturn]] void fail(const fs::path& path, int error) {
  throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {}", path.string(), std::strerror(error)));
}

/// Without fsync, which takes longer than drawing; sync_all() follows.
void write_new(const fs::path& path, std::span<const std::uint8_t> bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) fail(path, errno);
  int error = 0;
  for (std::size_t done = 0; done < bytes.size() && error == 0;) {
    const ssize_t written = ::write(file, bytes.data() + done, bytes.size() - done);
    if (written >= 0) {
      done += static_cast<std::size_t>(written);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (::close(file) != 0 && errno != EINTR && error == 0) error = errno;
  if (error != 0) fail(path, error);
}

/// Brings everything written so far to the disk.
void sync_all(const fs::path& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) fail(folder, errno);
  const int error = ::syncfs(file) == 0 ? 0 : errno;
  ::close(file);
  if (error != 0) fail(folder, error);
}

std::string csv_row(const Truth& truth) {
  return fmt::format("{},{},{},{},{}\n", truth.image, truth.label, truth.count, truth.answer, truth.split);
}

std::string regions_row(const Truth& truth, const Scene& scene) {
  OrderedJson receipts = OrderedJson::array();
  const auto tenths = [](double x) { return std::round(x * 10) / 10; };
  for (const Region& region : scene.receipts) {
    OrderedJson polygon = OrderedJson::array();
    for (const Point& corner : region.corners) polygon.push_back({tenths(corner.x), tenths(corner.y)});
    receipts.push_back({{"polygon", std::move(polygon)}, {"visible", std::round(region.visible * 100) / 100}});
  }
  const OrderedJson row = {{"image", truth.image}, {"size", scene.pixels.cols}, {"receipts", std::move(receipts)}};
  return row.dump() + "\n";
}

/// The first pictures of a set side by side, each with its count.
class ContactSheet {
 public:
  explicit ContactSheet(std::int64_t pictures) {
    const int shown = static_cast<int>(std::min<std::int64_t>(pictures, kColumns * kRows));
    sheet_ = cv::Mat::zeros((shown + kColumns - 1) / kColumns * kSide, std::min(shown, kColumns) * kSide, CV_8UC3);
  }

  void add(std::int64_t index, const Drawn& drawn) {
    if (index >= kColumns * kRows) return;
    const int place = static_cast<int>(index);
    cv::Mat tile = sheet_(cv::Rect(place % kColumns * kSide, place / kColumns * kSide, kSide, kSide));
    cv::resize(cv::imdecode(drawn.jpeg, cv::IMREAD_COLOR), tile, tile.size(), 0, 0, cv::INTER_AREA);
    const std::string text = std::to_string(drawn.truth.count);
    for (const auto& [colour, thickness] :
         {std::pair(cv::Scalar(255, 255, 255), 4), std::pair(cv::Scalar(0, 0, 220), 2)}) {
      cv::putText(tile, text, cv::Point(6, 22), cv::FONT_HERSHEY_SIMPLEX, 0.7, colour, thickness, cv::LINE_AA);
    }
  }

  void write(const fs::path& path) const {
    std::vector<std::uint8_t> bytes;
    if (!cv::imencode(".png", sheet_, bytes)) throw Error(ErrorCode::kInternal, "OpenCV can't write PNG here");
    write_new(path, bytes);
  }

 private:
  static constexpr int kColumns = 8, kRows = 5, kSide = 180;
  cv::Mat sheet_;
};

}  // namespace

Truth truth_of(std::int64_t seed, std::int64_t index) {
  constexpr std::array<std::array<int, 3>, 6> kOrders = {
      {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};
  const std::int64_t round = index / 3;
  const std::array<int, 3>& order = Random(seed_of(seed, "receipt classes", round)).pick(kOrders);
  const int label = order[static_cast<std::size_t>(index % 3)];
  Truth truth;
  truth.image = fmt::format("images/{:07}.jpg", index);
  truth.label = kLabels[static_cast<std::size_t>(label)];
  truth.count = label < 2 ? label : Random(seed_of(seed, "receipt counts", index)).between(2, 4);
  truth.answer = answer_of(truth.count);
  truth.split = split_of(round);
  return truth;
}

Drawn draw_receipts(std::int64_t seed, std::int64_t index, int size) {
  Drawn drawn{truth_of(seed, index), {}, {}};
  Random random(seed_of(seed, "receipt scenes", index));
  drawn.scene = draw_scene(random, drawn.truth.count, size);
  drawn.jpeg = to_jpeg(drawn.scene.pixels, random);
  return drawn;
}

void write_receipts(const ReceiptSet& set, const fs::path& folder) {
  cv::setNumThreads(1);  // one picture, one thread
  std::error_code error;
  fs::create_directory(folder / "images", error);
  if (error) fail(folder / "images", error.value());
  AtomicFile labels(folder / "labels.csv"), regions(folder / "regions.jsonl");
  labels.write("image,label,count,answer,split\n");
  ContactSheet sheet(set.count);
  Progress progress("drawing receipts", static_cast<std::uint64_t>(set.count), "pictures");
  OrderedStream<Drawn> stream(set.count,
                              [&set](std::int64_t index) { return draw_receipts(set.seed, index, set.size); },
                              {.threads = set.threads, .ahead = 0});
  for (std::int64_t index = 0; const auto drawn = stream.next(); ++index) {
    write_new(folder / drawn->truth.image, drawn->jpeg);
    labels.write(csv_row(drawn->truth));
    regions.write(regions_row(drawn->truth, drawn->scene));
    sheet.add(index, *drawn);
    progress.advance(1);
  }
  sheet.write(folder / "contact_sheet.png");
  labels.commit();
  regions.commit();
  const OrderedJson origin = {{"synth", "receipts"}, {"count", set.count}, {"seed", set.seed}, {"size", set.size}};
  write_file(folder / "synth.json", to_text(origin));
  sync_all(folder);
}

}  // namespace vlmzoo::app::synth
