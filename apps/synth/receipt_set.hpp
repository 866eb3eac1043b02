#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "synth/scene.hpp"

namespace vlmzoo::app::synth {

/// What a picture of a set shows and which part of the set it belongs to.
struct Truth {
  std::string image;  ///< "images/0000012.jpg"
  std::string label;  ///< none, one, several
  int count = 0;      ///< 0 to 4
  std::string answer;
  std::string split;  ///< train, val, test
};

/// Of picture `index`, a function of seed and index alone, so that a smaller set is the beginning of a larger one.
/// Classes take turns by threes; within each class every 20 pictures hold 14, 3 and 3 of the splits.
Truth truth_of(std::int64_t seed, std::int64_t index);

struct Drawn {
  Truth truth;
  Scene scene;
  std::vector<std::uint8_t> jpeg;
};

/// Draws one picture; the same bytes on every machine with the same OpenCV. Thread-safe.
Drawn draw_receipts(std::int64_t seed, std::int64_t index, int size);

struct ReceiptSet {
  std::int64_t count = 0, seed = 0;
  int size = 224;   ///< of each side, in pixels
  int threads = 1;  ///< that draw
};

/// Fills `folder` (which exists and is empty): images/, labels.csv, regions.jsonl, contact_sheet.png, synth.json.
/// Everything is on the disk when it returns. Errors: kIo, kInterrupted.
void write_receipts(const ReceiptSet& set, const std::filesystem::path& folder);

}  // namespace vlmzoo::app::synth
