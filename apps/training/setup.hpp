#pragma once

#include <cstdint>
#include <string>

#include "data/dataset.hpp"
#include "session.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/losses.hpp"
#include "vlmzoo/weights.hpp"

namespace vlmzoo::app {

struct TrainingDataRequest {
  std::string path;        ///< as DataRequest's
  std::int64_t limit = 0;  ///< the first so many samples of each split; 0: all
  bool skip_bad = false;
};

/// The samples of both splits. Data without splits has nothing to validate on.
struct TrainingData {
  Dataset train, validation;

  /// SHA-256; changes with samples, labels and answers.
  std::string fingerprint() const;
};

/// Labels are the classes of the session's head. Warns where nothing is left to validate on. Errors: those of
/// load_dataset().
TrainingData load_training_data(const Session& session, const TrainingDataRequest& wanted);

/// What the configuration comes down to with this data.
struct TrainingMode {
  RoleSet roles = RoleSet::none();  ///< trainable, and reached by a loss
  bool answers = false;             ///< with the language loss
  bool regions = false;             ///< with the region loss
  bool cached = false;              ///< the head alone, on features that are computed once
};

/// Error: kConfig for settings that contradict each other.
TrainingMode training_mode(const Config& config, const TrainingData& data, const Head& head);

/// `config.training` as this machine follows it: what it can't is told, or refused (kUnsupported).
TrainingConfig settled_training(const Config& config);

/// Error: kConfig for class weights that don't fit the data's classes.
ClassificationLoss classification_loss(const TrainingConfig& training, const Dataset& train);

}  // namespace vlmzoo::app
