#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "commands.hpp"
#include "output.hpp"
#include "output_folder.hpp"
#include "session.hpp"
#include "synth/receipt_set.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

bool is_picture_of_set(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return entry.is_regular_file() && !entry.is_symlink() && name.ends_with(".jpg") &&
         std::all_of(name.begin(), name.end() - 4, [](char c) { return c >= '0' && c <= '9'; });
}

/// A file of a drawn set, or its folder of pictures with nothing else in it.
bool belongs_to_set(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (entry.is_symlink()) return false;
  if (name == "images" && entry.is_directory()) {
    const std::filesystem::directory_iterator pictures(entry.path());
    return std::all_of(begin(pictures), end(pictures), is_picture_of_set);
  }
  for (const char* known : {"labels.csv", "regions.jsonl", "contact_sheet.png", "synth.json"}) {
    if (name == known) return entry.is_regular_file();
  }
  return false;
}

/// Hardly any picture takes less than 5 % of a byte for each of its pixels, large ones the least.
void check_space(const std::filesystem::path& folder, const synth::ReceiptSet& set) {
  const double needed = 0.05 * static_cast<double>(set.count) * set.size * set.size;
  std::error_code error;
  const auto space = std::filesystem::space(folder, error);
  if (!error && static_cast<double>(space.available) < needed) {
    throw Error(ErrorCode::kIo, fmt::format("{}: {} are free, {} pictures need {} or more",
                                            folder.parent_path().string(), format_bytes(space.available),
                                            grouped(set.count), format_bytes(static_cast<std::uint64_t>(needed))));
  }
}

}  // namespace

int run_synth(Arguments arguments) {
  HostOptions host;
  ThreadOption threads;
  synth::ReceiptSet set;
  std::vector<std::string> kinds;
  std::string output;
  bool force = false;
  Options options(
      {"synth", "receipts [options] --count N --output DIR",
       "Draws scenes with 0 to 4 receipts among other things (classes none, one, several) into images/,\n"
       "labels.csv (image,label,count,answer,split), regions.jsonl (where each receipt lies) and\n"
       "contact_sheet.png. A seed stands for the same pictures everywhere; a smaller set is the beginning of\n"
       "a larger one.",
       "vlmzoo synth receipts --count 2000 --seed 7 --output pictures"});
  options.add()("kind", po::value(&kinds)->value_name("KIND"), "what to draw: receipts")(
      "count", po::value(&set.count)->value_name("N"), "number of pictures")(
      "seed", po::value(&set.seed)->value_name("N"), "seed of the pictures, 0 by default")(
      "size", po::value(&set.size)->value_name("N"), "side of a picture in pixels, 224 by default")(
      "output", po::value(&output)->value_name("DIR"), "folder to create")("force", po::bool_switch(&force),
                                                                           "replace the set in --output");
  options.positional("kind");
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  host.apply();
  if (kinds != std::vector<std::string>{"receipts"}) {
    throw Error(ErrorCode::kUsage, "name one kind of pictures: receipts (as in 'vlmzoo synth receipts --count 100 …')");
  }
  if (!options.given("count")) throw Error(ErrorCode::kUsage, "--count is missing");
  if (output.empty()) throw Error(ErrorCode::kUsage, "--output is missing");
  require_range("count", set.count, 1, 10'000'000);
  require_range("size", set.size, 64, 2048);
  threads.apply(options);
  set.threads = at::get_num_threads();

  OutputFolder folder(output, force, {"a set of drawn pictures", belongs_to_set});
  check_space(folder.temporary(), set);
  synth::write_receipts(set, folder.temporary());
  folder.commit();
  print(fmt::format("{}: {} pictures of receipts (seed {}), {} x {} pixels\n", output, grouped(set.count), set.seed,
                    set.size, set.size));
  return 0;
}

}  // namespace vlmzoo::app
