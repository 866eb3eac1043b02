#include "training/trainer.hpp"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/aminmax.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "clock.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/random.hpp"

namespace vlmzoo::app {
namespace {

/// Without a copy of the tensor.
bool all_finite(const at::Tensor& tensor) {
  if (!tensor.is_floating_point() || tensor.numel() == 0) return true;
  const auto [smallest, largest] = at::aminmax(tensor.detach());
  return std::isfinite(smallest.item<double>()) && std::isfinite(largest.item<double>());
}

std::string duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, seconds));
  if (whole >= 3600) return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} s", whole);
}

OptimizerConfig optimizer_config(const TrainingConfig& training) {
  OptimizerConfig config;
  config.muon = training.optimizer == "muon";
  config.weight_decay = training.weight_decay;
  return config;
}

Schedule schedule_of(const TrainingConfig& training, std::int64_t steps) {
  using Decay = Schedule::Decay;
  return {training.learning_rate, training.warmup_steps, steps,
          training.lr_scheduler_type == "cosine"   ? Decay::kCosine
          : training.lr_scheduler_type == "linear" ? Decay::kLinear
                                                   : Decay::kConstant};
}

/// Dropout of a step depends on seed and step alone, so that a resumed run draws the same.
void seed_dropout(std::int64_t seed, std::int64_t step) {
  const std::uint64_t start = Random(static_cast<std::uint64_t>(seed) ^ fnv1a("dropout")).next();
  at::manual_seed(Random(start + static_cast<std::uint64_t>(step) * Random::kStep).next());
}

/// Reading pictures shares the processors with training: half of them. A step's batches that are computed at once have
/// to be there at once.
StreamOptions stream_options(const TrainingConfig& training) {
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = std::clamp(processors / 2, 1, 8);
  const auto at_once = training.parallel_batches ? static_cast<int>(training.gradient_accumulation_steps) : 1;
  return {.threads = threads, .ahead = std::max(threads + 1, at_once) + 1};
}

}  // namespace

StepPlan::StepPlan(std::int64_t samples, const TrainingConfig& training, bool no_single)
    : samples_(samples), seed_(training.seed) {
  const std::int64_t per_step = training.batch_size * training.gradient_accumulation_steps;
  for (std::int64_t first = 0; first < samples; first += per_step) {
    const std::int64_t end = std::min(samples, first + per_step);
    const auto begun = static_cast<std::int64_t>(batches_.size());
    for (std::int64_t begin = first; begin < end; begin += training.batch_size) {
      const Range range{begin, std::min(end, begin + training.batch_size)};
      if (range.end - range.begin > 1 || !no_single) {
        batches_.push_back(range);
      } else if (std::ssize(batches_) > begun) {
        batches_.back().end = range.end;
      }
    }
    if (std::ssize(batches_) > begun) first_batch_.push_back(begun);
  }
  if (batches_.empty()) {
    throw Error(ErrorCode::kMismatch, fmt::format("{} training samples in batches of {} leave no batch that batch norm "
                                                  "can take; raise training.batch_size, or set "
                                                  "model.classifier.batch_norm=false",
                                                  samples, training.batch_size));
  }
  steps_per_epoch_ = std::ssize(first_batch_);
  total_steps_ = steps_per_epoch_ * training.epochs;
  if (training.max_steps > 0) total_steps_ = std::min(total_steps_, training.max_steps);
}

std::int64_t StepPlan::batches_before(std::int64_t step) const {
  return epoch_of(step) * std::ssize(batches_) + first_batch_[static_cast<std::size_t>(step % steps_per_epoch_)];
}

std::vector<std::int64_t> StepPlan::batch(std::int64_t number) const {
  const std::int64_t epoch = number / std::ssize(batches_);
  std::shared_ptr<const std::vector<std::int64_t>> order;
  {
    const std::lock_guard lock(mutex_);
    if (ordered_epoch_ != epoch) {
      order_ = std::make_shared<const std::vector<std::int64_t>>(epoch_order(samples_, seed_, epoch));
      ordered_epoch_ = epoch;
    }
    order = order_;
  }
  const Range& range = batches_[static_cast<std::size_t>(number % std::ssize(batches_))];
  return {order->begin() + range.begin, order->begin() + range.end};
}

Trainer::Trainer(const TrainingConfig& training, Objective& objective, const RunFolder& folder,
                 const BatchSource& train, const BatchSource& validation, std::vector<std::int64_t> validation_labels,
                 std::int64_t classes, bool batch_norm)
    : training_(training),
      objective_(objective),
      folder_(folder),
      train_(train),
      validation_(validation),
      validation_labels_(std::move(validation_labels)),
      classes_(classes),
      batch_norm_(batch_norm),
      plan_(train.samples, training, batch_norm),
      optimizer_(optimizer_config(training), objective.trained()) {
  if (training.ema_decay > 0) ema_.emplace(training.ema_decay, objective.state());
  state_.stopping.patience = training.early_stopping_patience;
}

std::vector<NamedTensor> Trainer::all_state() const {
  std::vector<NamedTensor> state = objective_.state();
  const auto append = [&](const char* prefix, std::vector<NamedTensor> more) {
    for (NamedTensor& named : more) state.push_back({prefix + named.name, named.tensor, false});
  };
  append("optimizer.", optimizer_.state());
  if (ema_) append("", ema_->state());
  return state;
}

void Trainer::resume() {
  const std::int64_t patience = state_.stopping.patience;
  state_ = folder_.load(all_state());
  state_.stopping.patience = patience;
}

/// Never over a good checkpoint with one that nothing can go on from: the optimizer's state overflows before the loss
/// does.
void Trainer::save() {
  const std::vector<NamedTensor> state = all_state();
  for (const NamedTensor& named : state) {
    if (!all_finite(named.tensor)) {
      throw Error(ErrorCode::kMismatch,
                  fmt::format("step {}: {} holds values that aren't finite; {}", state_.step, named.name, advice()));
    }
  }
  folder_.save(state_, state);
}

std::string Trainer::advice() const {
  return fmt::format("lower training.learning_rate (or training.gradient_clip), check the data; {}",
                     folder_.has_checkpoint() ? "the last good checkpoint is kept" : "nothing was saved yet");
}

bool Trainer::run() {
  try {
    train_to_the_end();
  } catch (const Error& error) {
    stream_.reset();
    // A fault of the data, or a signal: what was learned until the last whole step is kept.
    if (error.code() == ErrorCode::kIo || error.code() == ErrorCode::kInternal) throw;
    if (error.code() == ErrorCode::kMismatch) throw;  // the loss
    save();
    if (error.code() == ErrorCode::kInterrupted) return false;
    throw;
  }
  stream_.reset();
  use_best();
  return true;
}

void Trainer::train_to_the_end() {
  if (state_.done) return;
  const std::int64_t total = plan_.total_steps(), first = plan_.batches_before(state_.step),
                     end = plan_.batches_before(total), per_epoch = plan_.batches_before(plan_.steps_per_epoch());
  stream_ = std::make_unique<OrderedStream<Batch>>(
      end - first,
      [this, first, per_epoch](std::int64_t index) {
        return train_.prepare(plan_.batch(first + index), (first + index) / per_epoch);
      },
      stream_options(training_));
  const std::int64_t eval_every = training_.eval_steps > 0 ? training_.eval_steps : plan_.steps_per_epoch();
  const std::int64_t save_every = training_.save_steps > 0 ? training_.save_steps : plan_.steps_per_epoch();
  while (true) {
    // First, so that a run which was stopped in the middle of an evaluation makes up for it.
    const bool due = state_.step > 0 && (state_.step % eval_every == 0 || state_.step == total);
    if (due && state_.evaluated_step < state_.step) {
      evaluate();
      state_.evaluated_step = state_.step;
    }
    if (state_.step == total || state_.stopping.stop()) break;
    if (state_.step > 0 && (due || state_.step % save_every == 0)) save();
    take_step();
    if (state_.step % training_.logging_steps == 0 || state_.step == total) log();
  }
  if (state_.window.steps > 0) log();
  if (state_.stopping.stop()) {
    info(fmt::format("no improvement in {} evaluations: stopped early at step {}", state_.stopping.patience,
                     state_.step));
  }
  state_.done = true;
  save();
}

Batch Trainer::next_batch() {
  const auto start = Clock::now();
  std::optional<Batch> batch = stream_->next();
  state_.window.waited += seconds_since(start);
  if (!batch) throw Error(ErrorCode::kInternal, "training: the stream of batches ended before the run");
  note_skipped(*batch, train_);
  return std::move(*batch);
}

std::int64_t Trainer::skipped() const {
  std::int64_t count = 0;
  for (const auto& [source, samples] : skipped_) count += std::ssize(samples);
  return count;
}

/// Each is told and counted once, however often its turn comes.
void Trainer::note_skipped(const Batch& batch, const BatchSource& source) {
  for (const auto& [sample, message] : batch.skipped) {
    if (skipped_[&source].insert(sample).second && told_.insert(message).second) warn(message);
  }
  if (source.samples > 0 && std::ssize(skipped_[&source]) == source.samples) {
    throw Error(ErrorCode::kMismatch, fmt::format("none of the {} pictures of the {} split could be read",
                                                  source.samples, &source == &train_ ? "training" : "validation"));
  }
}

/// `step` of 0 to total - 1 has the language loss.
bool Trainer::has_language(std::int64_t step) const {
  return static_cast<double>(step) >= training_.language_loss_from * static_cast<double>(plan_.total_steps());
}

void Trainer::take_step() {
  const auto start = Clock::now();
  std::vector<NamedTensor> buffers = objective_.buffers();
  for (NamedTensor& named : buffers) named.tensor = named.tensor.clone();
  const std::int64_t first = plan_.batches_before(state_.step), end = plan_.batches_before(state_.step + 1);
  std::vector<std::int64_t> samples;
  for (std::int64_t number = first; number < end; ++number) {
    const std::vector<std::int64_t> more = plan_.batch(number);
    samples.insert(samples.end(), more.begin(), more.end());
  }
  const StepTotals totals = train_.totals(samples);
  const bool language = has_language(state_.step);
  const auto undo = [&] { copy_tensors("buffers", objective_.buffers(), buffers); };
  LossParts loss;
  try {
    optimizer_.zero_gradients();
    seed_dropout(training_.seed, state_.step);
    std::vector<Batch> at_once;
    for (std::int64_t number = first; number < end; ++number) {
      Batch batch = next_batch();
      // Of samples that couldn't be read one may be left, which batch norm can't take.
      if (std::ssize(batch.samples) <= (batch_norm_ ? 1 : 0)) continue;
      if (training_.parallel_batches) {
        at_once.push_back(std::move(batch));
      } else {
        loss += objective_.backward(batch, totals, language);
      }
    }
    if (!at_once.empty()) loss += objective_.backward(at_once, totals, language);
  } catch (...) {
    undo();
    throw;
  }
  const double norm =
      clip_gradients(optimizer_.tensors(), training_.gradient_clip > 0 ? training_.gradient_clip : 1e300);
  if (!std::isfinite(loss.total) || !std::isfinite(norm)) {
    undo();
    throw Error(ErrorCode::kMismatch, fmt::format("step {}: the loss is {} and the gradient's norm {}; {}",
                                                  state_.step + 1, loss.total, norm, advice()));
  }
  const double rate = learning_rate_at(schedule_of(training_, plan_.total_steps()), state_.step);
  optimizer_.step(rate);
  if (ema_) ema_->update();
  ++state_.step;
  LogWindow& window = state_.window;
  window.loss += loss;
  window.language_steps += loss.language ? 1 : 0;
  window.gradient_norm += norm;
  window.learning_rate = rate;
  window.pictures += totals.pictures;
  ++window.steps;
  window.seconds += seconds_since(start);
}

void Trainer::log() {
  LogWindow& window = state_.window;
  const auto steps = static_cast<double>(window.steps);
  const double epoch = static_cast<double>(state_.step) / static_cast<double>(plan_.steps_per_epoch());
  OrderedJson line = {{"step", state_.step}, {"epoch", epoch}, {"loss", window.loss.total / steps}};
  const auto part = [&](const char* key, const std::optional<double>& value, double of_steps) {
    if (value) line[key] = *value / of_steps;
  };
  part("classification_loss", window.loss.classification, steps);
  part("language_loss", window.loss.language, static_cast<double>(window.language_steps));
  part("region_loss", window.loss.region, steps);
  line["learning_rate"] = window.learning_rate;
  line["gradient_norm"] = window.gradient_norm / steps;
  line["pictures_per_s"] = static_cast<double>(window.pictures) / window.seconds;
  line["waited_for_data"] = window.waited / window.seconds;
  folder_.log(line);
  const auto left = static_cast<double>(plan_.total_steps() - state_.step);
  info(fmt::format("step {}/{}, epoch {:.2f}: loss {:.4f}, rate {:.2e}, {:.1f} pictures/s, {} left", state_.step,
                   plan_.total_steps(), epoch, window.loss.total / steps, window.learning_rate,
                   static_cast<double>(window.pictures) / window.seconds, duration(window.seconds / steps * left)));
  window = LogWindow();
}

Trainer::Validation Trainer::validate(bool answers) {
  Validation result{{classes_, {}, {}}, {}, {}};
  double answer_loss = 0;
  std::int64_t answer_tokens = 0;
  const std::int64_t size = training_.batch_size, count = (validation_.samples + size - 1) / size;
  OrderedStream<Batch> stream(
      count,
      [&](std::int64_t index) {
        std::vector<std::int64_t> samples;
        for (std::int64_t i = index * size; i < std::min(validation_.samples, (index + 1) * size); ++i) {
          samples.push_back(i);
        }
        return validation_.prepare(samples, 0);
      },
      stream_options(training_));
  while (const auto batch = stream.next()) {
    note_skipped(*batch, validation_);
    if (batch->samples.empty()) continue;
    const Objective::Judgement judged = objective_.judge(*batch, answers);
    answer_loss += judged.answer_loss;
    answer_tokens += judged.answer_tokens;
    const at::Tensor logits = judged.logits.to(at::kDouble).contiguous();
    if (!logits.isfinite().all().item<bool>()) {
      throw Error(ErrorCode::kMismatch, fmt::format("evaluation at step {}: logits are not finite", state_.step));
    }
    result.logits.scores.insert(result.logits.scores.end(), logits.const_data_ptr<double>(),
                                logits.const_data_ptr<double>() + logits.numel());
    for (const std::int64_t sample : batch->samples) {
      result.logits.labels.push_back(validation_labels_[static_cast<std::size_t>(sample)]);
      result.samples.push_back(sample);
    }
  }
  if (answer_tokens > 0) result.language_loss = answer_loss / static_cast<double>(answer_tokens);
  return result;
}

void Trainer::evaluate() {
  if (validation_.samples == 0) return;
  if (ema_) ema_->swap();
  ClassificationMetrics metrics;
  std::optional<double> language_loss;
  bool best = false;
  try {
    const bool begun = train_.answers && has_language(state_.step - 1);
    const Validation validation = validate(/*answers=*/begun);
    metrics = classification_metrics(calibrated(validation.logits));
    language_loss = validation.language_loss;
    // A model that hasn't learned to answer yet, or a head that no loss reaches, is no candidate.
    if (train_.answers ? begun : training_.classification_loss_weight > 0) {
      const double score = language_loss ? -training_.classification_loss_weight * metrics.negative_log_likelihood -
                                               training_.language_loss_weight * *language_loss
                                         : metrics.accuracy;
      // As good as the best but surer of it is better; patience counts the score alone.
      const bool as_good = state_.stopping.best_round >= 0 && score == state_.stopping.best &&
                           metrics.negative_log_likelihood < state_.best_loss;
      best = state_.stopping.add(score) || as_good;
    }
    if (best) {
      state_.best_loss = metrics.negative_log_likelihood;
      folder_.save_best(objective_.state());
    }
  } catch (...) {
    if (ema_) ema_->swap();
    throw;
  }
  if (ema_) ema_->swap();
  OrderedJson line = {{"step", state_.step},
                      {"epoch", static_cast<double>(state_.step) / static_cast<double>(plan_.steps_per_epoch())},
                      {"eval_loss", metrics.negative_log_likelihood},
                      {"eval_accuracy", metrics.accuracy},
                      {"eval_macro_f1", metrics.macro_f1},
                      {"n", metrics.n},
                      {"best", best}};
  if (language_loss) line["eval_language_loss"] = *language_loss;
  folder_.log(line);
  info(fmt::format("step {}: validation loss {:.4f}, accuracy {:.4f} of {}, macro-F1 {:.4f}{}{}", state_.step,
                   metrics.negative_log_likelihood, metrics.accuracy, metrics.n, metrics.macro_f1,
                   language_loss ? fmt::format(", language loss {:.4f}", *language_loss) : "", best ? " (best)" : ""));
}

void Trainer::use_best() {
  if (folder_.has_best()) {
    folder_.load_best(objective_.state());
  } else if (ema_) {
    ema_->swap();
  }
}

}  // namespace vlmzoo::app
