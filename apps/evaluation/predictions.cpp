#include "evaluation/predictions.hpp"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "data/picture_stream.hpp"
#include "evaluation/classifier.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

/// From here on peak_memory() counts from what the process has now, where the kernel allows it.
void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << 5; }

/// "0", "1", …: names that say nothing.
bool numbered(const std::vector<std::string>& names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] != std::to_string(i)) return false;
  }
  return true;
}

/// How the cache keeps them.
std::string to_record(const PictureOutputs& outputs) {
  return Json{{"logits", outputs.logits},
              {"answer", outputs.answer},
              {"latency_ms", outputs.latency_ms},
              {"answer_ms", outputs.answer_ms}}
      .dump();
}

PictureOutputs from_record(const std::string& record) {
  const Json json = Json::parse(record);
  return {json.at("logits").get<std::vector<double>>(), json.at("answer").get<std::string>(),
          json.at("latency_ms").get<double>(), json.at("answer_ms").get<double>()};
}

/// What results depend on beside the model's fingerprint and the picture.
class ResultKeys {
 public:
  ResultKeys(const Session& session, const Classifier& classifier, const PredictOptions& options)
      : answers_(options.answers) {
    const std::string& head = session.config().model.head;
    const std::string& resolved = session.config().resolved;
    parts_ = {head.empty() ? "fresh head " + sha256(std::as_bytes(std::span(resolved))) : sha256_of_file(head)};
    const ClassifierConfig& c = classifier.head().config().classifier;
    // Threads change times, and the order of sums.
    parts_.push_back(fmt::format("{} {} {} threads {}", c.features, c.pooling, c.prompt, at::get_num_threads()));
    const GenerationConfig& g = classifier.generation();
    if (answers_) {
      parts_.push_back(
          fmt::format("{} {} {} {}", g.max_new_tokens, g.repetition_penalty, g.stop.size(), fmt::join(g.stop, "\n")));
    }
  }

  RecordKey picture(const std::string& hash, const std::string& question) const {
    return key("picture", {hash, answers_ ? question : ""});
  }
  /// Of the run's load time and memory. Calibrating is a run of its own; whether a model was the baseline or the
  /// candidate makes no difference.
  RecordKey run(const std::string& what) const { return key("run", {what == kCalibrating ? what : ""}); }

 private:
  RecordKey key(const std::string& what, std::vector<std::string> more) const {
    more.push_back(what);
    more.insert(more.end(), parts_.begin(), parts_.end());
    return record_key(more);
  }

  bool answers_;
  std::vector<std::string> parts_;
};

/// A picture ready to be computed, or its result of an earlier run.
struct Item {
  std::optional<Image> image;
  std::optional<PictureOutputs> outputs;
  RecordKey key{};
};

/// The question about a sample: its own, else the caller's, else what the model was trained with.
std::string question_about(const Sample& sample, const PredictOptions& options, const Config& config) {
  if (!sample.question.empty()) return sample.question;
  const std::string& question = options.question.empty() ? config.training.prompt : options.question;
  if (question.empty()) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{}: the data has no question for it; --prompt gives one for all", sample.id));
  }
  return question;
}

Prediction empty_prediction(const Sample& sample, const PredictOptions& options, const Config& config) {
  Prediction prediction;
  prediction.sample_id = sample.id;
  prediction.image = sample.image;
  prediction.label = sample.label;
  prediction.expected_answer = sample.answer;
  if (options.answers) prediction.question = question_about(sample, options, config);
  return prediction;
}

std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 10;
  const std::span<const std::string> first(names.data(), std::min(names.size(), kShown));
  return fmt::format("{} ({}{})", names.size(), fmt::join(first, ", "), names.size() > kShown ? ", …" : "");
}

/// The classes of both. Error: kMismatch unless they are the same.
std::vector<std::string> agreed_classes(const std::vector<std::string>& head, const std::vector<std::string>& data) {
  if (data.empty()) return head;
  const bool same_names = head == data || numbered(head) || numbered(data);
  if (head.size() != data.size() || !same_names) {
    throw Error(ErrorCode::kMismatch,
                fmt::format("the classes of the head and of the data are not the same: {} against {}; use a head that "
                            "was trained for these classes, or name them in model.id2label",
                            listed(head), listed(data)));
  }
  return numbered(head) ? data : head;
}

/// What one of several tenants of the process takes: the growth while it works, and above that the peak.
class MemoryMeter {
 public:
  void start() {
    before_ = resident_memory();
    reset_peak_memory();
  }
  void stop() {
    const auto grown = static_cast<std::int64_t>(peak_memory()) - static_cast<std::int64_t>(before_);
    peak_ = std::max(peak_, own_ + grown);
    own_ += static_cast<std::int64_t>(resident_memory()) - static_cast<std::int64_t>(before_);
  }
  /// Bytes, with what the process held before.
  std::uint64_t peak() const { return static_cast<std::uint64_t>(std::max<std::int64_t>(0, first_ + peak_)); }

 private:
  std::int64_t first_ = static_cast<std::int64_t>(resident_memory()), own_ = 0, peak_ = 0;
  std::uint64_t before_ = 0;
};

}  // namespace

struct PredictionRun::Impl {
  Impl(const Session& session, const Dataset& dataset, const PredictOptions& options)
      : dataset_(dataset),
        options_(options),
        config_(session.config()),
        classifier_(session, options.answers),
        keys_(session, classifier_, options) {
    run_.name = session.config().model.pretrained_path;
    run_.model_type = classifier_.plan().info().model_type;
    run_.resolved_config = session.config().resolved;
    run_.class_names = agreed_classes(classifier_.head().config().class_names, dataset.class_names);
    run_.precision = session.precision();
    run_.weight_bytes = classifier_.plan().parameters().bytes(run_.precision, classifier_.roles());
    run_.fresh_head = classifier_.fresh();
    run_.temperature = classifier_.head().config().temperature;
    if (run_.temperature != 1) run_.temperature_source = "head";
  }

  bool step() {
    if (run_.interrupted || run_.predictions.size() == dataset_.samples.size()) return false;
    const Sample& sample = dataset_.samples[run_.predictions.size()];
    Prediction prediction = empty_prediction(sample, options_, config_);
    try {
      std::optional<Item> item;
      passing_over_faults(prediction, [&] { item = stream_.next(); });
      if (item && !item->outputs) classifier_.load();
      if (item) passing_over_faults(prediction, [&] { predict_one(std::move(*item), prediction); });
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInterrupted) throw;
      run_.interrupted = true;
    }
    if (run_.interrupted) return false;
    run_.predictions.push_back(std::move(prediction));
    return true;
  }

  ModelRun finish() {
    measure();
    return std::move(run_);
  }

  MemoryMeter& memory() { return memory_; }

 private:
  /// Where the picture is at fault, that is told and noted.
  template <class Work>
  void passing_over_faults(Prediction& prediction, const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      if (!is_fault_of_picture(error.code())) throw;
      prediction.error = error.what();
      options_.skip_bad ? warn(error.what()) : complain(error.what());
    }
  }

  /// On the stream's threads.
  Item prepare(std::int64_t index) const {
    const Sample& sample = dataset_.samples[static_cast<std::size_t>(index)];
    return naming(sample.image.string(), [&] {
      Item item;
      if (options_.cache != nullptr) {
        item.key = keys_.picture(picture_hash(sample.image), empty_prediction(sample, options_, config_).question);
        if (const auto record = options_.cache->get(item.key)) {
          item.outputs = from_record(*record);
          return item;
        }
      }
      item.image = load_image(sample.image);
      return item;
    });
  }

  void predict_one(Item item, Prediction& prediction) {
    prediction.cached = item.outputs.has_value();
    if (!item.outputs) {
      item.outputs = naming(prediction.image.string(), [&] {
        return classifier_.run(std::move(*item.image), options_.answers ? &prediction.question : nullptr);
      });
      run_.interrupted = !item.outputs;
      if (run_.interrupted) return;
      if (options_.cache != nullptr) options_.cache->put(item.key, to_record(*item.outputs));
    }
    prediction.logits = std::move(item.outputs->logits);
    prediction.answer = std::move(item.outputs->answer);
    prediction.latency_ms = item.outputs->latency_ms;
    prediction.answer_ms = item.outputs->answer_ms;
  }

  /// Load time and memory; where nothing had to be loaded, those of the run that filled the cache.
  void measure() {
    if (classifier_.loaded()) {
      run_.load_seconds = classifier_.load_seconds();
      run_.peak_memory = memory_.peak();
      if (options_.cache != nullptr) {
        options_.cache->put(keys_.run(options_.what),
                            Json{{"load_seconds", run_.load_seconds}, {"peak_memory", run_.peak_memory}}.dump());
      }
    } else if (options_.cache != nullptr) {
      run_.measured_earlier = true;
      if (const auto record = options_.cache->get(keys_.run(options_.what))) {
        const Json json = Json::parse(*record);
        run_.load_seconds = json.at("load_seconds").get<double>();
        run_.peak_memory = json.at("peak_memory").get<std::uint64_t>();
      }
    }
  }

  const Dataset& dataset_;
  const PredictOptions& options_;
  const Config& config_;
  Classifier classifier_;
  ResultKeys keys_;
  ModelRun run_;
  MemoryMeter memory_;
  OrderedStream<Item> stream_{std::ssize(dataset_.samples),
                              [this](std::int64_t index) { return prepare(index); },
                              {.threads = 2, .ahead = 4}};  // last: its threads use the rest
};

std::int64_t ModelRun::errors() const {
  return std::count_if(predictions.begin(), predictions.end(), [](const Prediction& p) { return p.logits.empty(); });
}

std::vector<std::string> class_names(const Session& session) {
  const ModelConfig& model = session.config().model;
  if (!model.class_names.empty()) return model.class_names;
  if (model.head.empty()) return {};
  std::vector<std::string> names = read_head_config(model.head).class_names;
  return numbered(names) ? std::vector<std::string>{} : names;
}

DataRequest with_classes(DataRequest request, const Session& session) {
  const ModelConfig& model = session.config().model;
  request.class_names = class_names(session);
  request.num_classes = !request.class_names.empty() ? std::ssize(request.class_names)
                        : model.head.empty()         ? model.num_classes
                                                     : std::ssize(read_head_config(model.head).class_names);
  return request;
}

ModelRun predict(const Session& session, const Dataset& dataset, const PredictOptions& options) {
  PredictionRun run(session, dataset, options);
  Progress progress(options.what, dataset.samples.size(), "pictures");
  while (run.step()) progress.advance(1);
  return run.finish();
}

PredictionRun::PredictionRun(const Session& session, const Dataset& dataset, const PredictOptions& options) {
  impl_ = std::make_unique<Impl>(session, dataset, options);
}

PredictionRun::~PredictionRun() = default;

bool PredictionRun::step() {
  const at::NoGradGuard no_grad;
  impl_->memory().start();
  const bool stepped = impl_->step();
  impl_->memory().stop();
  return stepped;
}

ModelRun PredictionRun::finish() { return impl_->finish(); }

std::unique_ptr<RecordStore> open_result_cache(const CacheOptions& options, const Session& session) {
  return options.no_cache ? nullptr : options.open("results", model_fingerprint(session));
}

}  // namespace vlmzoo::app
