#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "options.hpp"

namespace vlmzoo::app {

/// One picture with what is known about it.
struct Sample {
  std::string id;               ///< the same in every run: the picture as its file names it, or the row's own "id"
  std::filesystem::path image;  ///< to open
  std::int64_t label = -1;      ///< index into class_names; -1: not known
  std::optional<std::int64_t> count;
  std::string question, answer;  ///< empty: none
  std::string split;             ///< train, val or test; empty: the data has no splits
};

struct Dataset {
  std::vector<std::string> class_names;
  std::vector<Sample> samples;
  std::int64_t skipped = 0;  ///< bad rows left out

  /// How many samples each class has.
  std::vector<std::int64_t> class_counts() const;
};

/// What to load. `path` is one of
/// - labels.csv, or a folder that holds it: columns image and label, and count, answer, split where they are; others
///   are ignored;
/// - *.jsonl: an object in each line with image, conversations ([{"from": "human", "value": …}, {"from": "gpt", …}]:
/// the
///   first question and answer count), and id, label, count, split where they are;
/// - a folder with a folder per class, or such folders in train, val and test. Classes take turns.
/// Pictures are relative to the file that names them.
struct DataRequest {
  std::filesystem::path path;
  std::string split = "test";  ///< train, val, test or all; everything where the data has no splits
  std::int64_t limit = 0;      ///< the first so many samples of the split; 0: all
  bool skip_bad = false;       ///< leave bad rows out and count them; else they are an error
  bool labels = true;          ///< every sample needs a label, and there have to be two classes
  /// Names in the order of the classes. A label is a name, or an index. Empty: the labels of the whole file, sorted (by
  /// value when all are numbers).
  std::vector<std::string> class_names;
  std::int64_t num_classes = 0;  ///< 0: as many as there are
};

/// Reads the table, not the pictures, but checks that they exist. Errors: kNotFound; kUnsupported for another kind of
/// file; kCorrupt with file and line of bad rows (the first 20, all counted); kMismatch for labels outside the classes,
/// an empty split, a single class.
Dataset load_dataset(const DataRequest& request);

/// Error: kMismatch when all samples are of one class.
void check_classes(const Dataset& dataset, const DataRequest& request);

/// Options of verbs that read data.
struct DataOptions {
  std::string data, split = "test";
  std::int64_t limit = 0;
  bool skip_bad = false;

  void add_to(Options& options);
  /// Error: kUsage.
  DataRequest request() const;
};

}  // namespace vlmzoo::app
