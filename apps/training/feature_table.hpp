#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cache.hpp"
#include "data/dataset.hpp"
#include "vlmzoo/heads.hpp"

namespace vlmzoo::app {

/// Pooled features of a dataset, of which the vision tower makes each picture's only once.
struct FeatureTable {
  at::Tensor pooled;                  ///< fp32 [n, W], n samples that could be read
  std::vector<std::int64_t> samples;  ///< their indices in the dataset
  std::int64_t computed = 0;          ///< that weren't in the cache
  std::vector<std::string> skipped;   ///< why samples are missing
};

/// Fills the table for a head that is poolable(): from `cache` (may be null) where it has the picture, else with
/// `model` (called when needed), and puts what was computed into the cache at once, so that an interrupted run goes on
/// where it was. Errors: those of load_image() unless `skip_bad`; kInterrupted.
FeatureTable make_feature_table(const Dataset& data, const Head& head, RecordStore* cache,
                                const std::function<const Model&()>& model, bool skip_bad);

}  // namespace vlmzoo::app
