#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cache.hpp"
#include "data/dataset.hpp"
#include "session.hpp"
#include "vlmzoo/config.hpp"

namespace vlmzoo::app {

/// What a model said about one picture.
struct Prediction {
  std::string sample_id;
  std::filesystem::path image;
  std::int64_t label = -1;                        ///< what is right, an index into ModelRun::class_names; -1: not known
  std::vector<double> logits;                     ///< K, before the temperature; empty when `error` isn't
  std::string question, expected_answer, answer;  ///< empty where no answer was asked for
  double latency_ms = 0;                          ///< from the decoded picture to its class, alone; 0: not measured
  double answer_ms = 0;                           ///< from the decoded picture to the whole answer
  bool cached = false;  ///< nothing was computed: outputs and times are those of an earlier run
  std::string error;    ///< why there is no prediction (an unreadable picture)
};

/// Predictions of one model for one dataset, in the dataset's order, with what they took.
struct ModelRun {
  std::string name;        ///< model.pretrained_path
  std::string model_type;  ///< canonical
  std::string resolved_config;
  std::vector<std::string> class_names;
  std::vector<Prediction> predictions;
  double temperature = 1;                   ///< probabilities are softmax(logits / temperature)
  std::string temperature_source = "none";  ///< "validation", "head", or "none" for 1
  std::int64_t calibration_items = 0;       ///< pictures that the one of validation was fitted on
  double load_seconds = 0;                  ///< model and head
  std::uint64_t peak_memory = 0;            ///< of the process while this ran, bytes
  std::uint64_t weight_bytes = 0;           ///< of the roles that were loaded
  bool measured_earlier = false;            ///< all was in the cache: load_seconds and peak_memory are an earlier run's
  RolePrecision precision;                  ///< resolved
  bool fresh_head = false;                  ///< untrained: its classes mean nothing
  bool interrupted = false;                 ///< predictions of the pictures behind the last one are missing

  std::int64_t errors() const;  ///< predictions without a class
};

inline constexpr const char* kCalibrating = "calibrating";

struct PredictOptions {
  bool answers = false;             ///< also ask each sample's question and keep the answer (greedy)
  std::string question;             ///< for samples without one; empty: training.prompt of the configuration
  RecordStore* cache = nullptr;     ///< open_result_cache()'s; null: compute everything
  bool skip_bad = false;            ///< unreadable pictures are a warning; else an error on stderr
  std::string what = "evaluating";  ///< for the progress line; kCalibrating is measured apart
};

/// Names of the classes, in the order of the head's outputs: the configuration's, else the head file's; empty where
/// both only number them. Errors: as read_head_config().
std::vector<std::string> class_names(const Session& session);

/// `request` with the classes that the session's head tells apart, so that labels mean the same.
DataRequest with_classes(DataRequest request, const Session& session);

/// Runs model and head of the session over the samples. The model is loaded when the first picture needs it, with no
/// more roles than the head and `answers` need. Pictures are decoded ahead on other threads, and computed one at a
/// time. A picture that can't be used becomes a row with `error`; Ctrl-C ends it with what there is. Errors: kMismatch
/// when dataset and head don't have the same classes, kUsage for a sample without a question where answers are wanted,
/// those of Session::create() and make_head().
ModelRun predict(const Session& session, const Dataset& dataset, const PredictOptions& options = {});

/// predict() picture by picture, so that two models can take turns. What it is made from has to outlive it. Belongs to
/// one thread; gradients are off inside. Errors: those of predict(), each where it happens.
class PredictionRun {
 public:
  PredictionRun(const Session& session, const Dataset& dataset, const PredictOptions& options);
  ~PredictionRun();
  PredictionRun(const PredictionRun&) = delete;
  PredictionRun& operator=(const PredictionRun&) = delete;

  /// The next picture. False when there was none left, or Ctrl-C came.
  bool step();
  /// What there is so far, once. Its peak memory is this run's alone, whatever else the process holds.
  ModelRun finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The store that predict() wants as its cache.
std::unique_ptr<RecordStore> open_result_cache(const CacheOptions& options, const Session& session);

}  // namespace vlmzoo::app
