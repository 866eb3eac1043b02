#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "evaluation/predictions.hpp"
#include "options.hpp"
#include "session.hpp"

/// Two models on the same pictures.
namespace vlmzoo::app {

/// Options that name two models: by their configurations, or by name in a zoo file.
struct PairOptions {
  std::string baseline, candidate, zoo;
  std::vector<std::string> settings;

  void add_to(Options& options);
  /// Configuration files of baseline and candidate; with a zoo file the baseline may be left out and is the active one.
  /// Errors: kUsage, and those of read_zoo().
  std::pair<std::filesystem::path, std::filesystem::path> files(const Options& options) const;
};

/// The same pictures, with labels in the order of each model's classes.
struct PairedData {
  Dataset baseline, candidate;
};
/// Errors: those of load_dataset(), kMismatch when the models don't have the same classes.
PairedData load_paired(const DataRequest& request, const Session& baseline, const Session& candidate);

/// What one model takes.
struct MemoryNeed {
  std::uint64_t weights = 0, working = 0;  ///< bytes
  bool on_cpu = true;
};

/// Whether both models are in memory at a time, and why.
struct Residency {
  bool together = false;
  std::string reason;  ///< "both models fit at once (need 1.2 GB of 30 GB that are free): they …"
};
/// Of two models with `free` bytes of memory.
Residency choose_residency(const MemoryNeed& baseline, const MemoryNeed& candidate, std::uint64_t free);

struct PairedRuns {
  ModelRun baseline, candidate;
  bool interrupted() const { return baseline.interrupted || candidate.interrupted; }
};
/// Runs both over their data: taking turns picture by picture when `info` says that both fit into free memory, so that
/// whatever else the machine does slows down both alike; else, or with `sequential`, one after the other. Says which.
/// `options.cache` is replaced by those of `caches`. After Ctrl-C what is cached stays. Errors: those of predict().
PairedRuns predict_pair(const Session& baseline, const Session& candidate, const PairedData& data,
                        const PredictOptions& options, const CacheOptions& caches, bool sequential = false);

}  // namespace vlmzoo::app
