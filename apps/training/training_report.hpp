#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "evaluation/predictions.hpp"

namespace vlmzoo::app {

/// One step of the optimiser. What a run doesn't have (no language loss) stays NaN and isn't drawn.
struct TrainingPoint {
  std::int64_t step = 0;
  double epoch = 0;
  double loss = 0, classification_loss = 0, language_loss = 0;
  double learning_rate = 0, gradient_norm = 0;
};

/// One look at the validation data.
struct ValidationPoint {
  std::int64_t step = 0;
  double epoch = 0;
  double loss = 0, accuracy = 0, macro_f1 = 0;
  double language_loss = 0;  ///< NaN: without answers
  bool best = false;         ///< the best one so far
};

struct TrainingReport {
  std::string title, resolved_config;
  std::vector<TrainingPoint> training;
  std::vector<ValidationPoint> validation_points;
  ModelRun validation;  ///< the trained model on the validation set; no predictions: not evaluated
};

/// report.html of a training run: curves, and of the validation set metrics, confusion matrix and the worst mistakes.
/// Works at any time, also before the first step. Errors: as write_file().
void write_training_report(const std::filesystem::path& file, const TrainingReport& report);

}  // namespace vlmzoo::app
