#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "vlmzoo/heads.hpp"
#include "vlmzoo/losses.hpp"

/// The parts of a training run, the same for heads and models. A run belongs to one thread; on one thread the same run
/// gives the same bits. Settings out of range are Error(kConfig), tensors that don't fit Error(kMismatch).
namespace vlmzoo {

/// A tensor that is trained: a contiguous fp32 leaf.
struct TrainedTensor {
  std::string name;
  at::Tensor value;
  /// Rows of each weight matrix in it, top to bottom (q, k, v lie in one tensor), if Muon may step it; empty for what
  /// AdamW always steps: biases, norms, embeddings, output layers.
  std::vector<std::int64_t> matrices;
};

/// What the configuration leaves trainable in a model created with `trainable`. lm_head is an output layer.
std::vector<TrainedTensor> trained_tensors(const Model& model);
/// The trainable tensors of a head; from here on they have requires_grad. The last layer of the classifier and the
/// response generator are output layers.
std::vector<TrainedTensor> trained_tensors(const Head& head);

/// Scales all gradients so that their norm, taken over all of them as one vector, is at most `max_norm`, as PyTorch's
/// clip_grad_norm_ does; returns the norm before. One that isn't finite leaves them alone: report it, don't step.
double clip_gradients(std::span<const TrainedTensor> tensors, double max_norm);

struct OptimizerConfig {
  bool muon = false;                                  ///< Muon for `matrices`, AdamW for the rest; false: AdamW for all
  double weight_decay = 1e-4;                         ///< decoupled; of tensors with two or more dimensions
  bool decay_vectors = false;                         ///< of biases and norms too
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  ///< AdamW's
  double momentum = 0.95;                             ///< Muon's, Nesterov's form
};

/// AdamW (Loshchilov, Hutter, arXiv:1711.05101; PyTorch's numbers) and Muon (Jordan 2024): momentum, made orthogonal by
/// 5 Newton-Schulz steps in fp32, times 0.2·sqrt(larger side), so that one learning rate and weight decay serves both
/// (arXiv:2502.16982; torch.optim.Muon(adjust_lr_fn="match_rms_adamw") in fp32). The state is allocated at once: two
/// tensors of the size of what AdamW steps, one of what Muon does. Tensors without a gradient are left alone.
class Optimizer {
 public:
  /// Error: kMismatch for two tensors of one name, or `matrices` that aren't the rows of a matrix.
  Optimizer(const OptimizerConfig& config, std::vector<TrainedTensor> tensors);

  const std::vector<TrainedTensor>& tensors() const { return tensors_; }
  void step(double learning_rate);
  void zero_gradients();
  /// "NAME.exp_avg", "NAME.exp_avg_sq", "NAME.step" (fp32, as in PyTorch), "NAME.momentum_buffer": handles. Put back
  /// with copy_tensors.
  std::vector<NamedTensor> state() const;

 private:
  struct Slot {
    bool muon = false;
    double weight_decay = 0;
    at::Tensor exp_avg, exp_avg_sq, step, momentum_buffer;
  };
  void step_adamw(double learning_rate);
  void step_muon(const TrainedTensor& tensor, const Slot& slot, double learning_rate) const;

  OptimizerConfig config_;
  std::vector<TrainedTensor> tensors_;
  std::vector<Slot> slots_;  // one per tensor
};

/// Learning rate over a run: linear warm-up, then a decay to 0 after the last step.
struct Schedule {
  enum class Decay { kCosine, kLinear, kConstant };
  double learning_rate = 5e-5;  ///< the highest
  std::int64_t warmup_steps = 0, total_steps = 1;
  Decay decay = Decay::kCosine;
};
/// Of step 0, 1, …, total_steps - 1: learning_rate · (step + 1) / warmup_steps below warmup_steps; then with t = (step
/// - warmup_steps) / (total_steps - warmup_steps) cosine (1 + cos πt) / 2 or linear 1 - t. 0 after the last step.
double learning_rate_at(const Schedule& schedule, std::int64_t step);

/// Exponential moving average of tensors. After update n = 1, 2, …: average += (1 - d)·(value - average) with d =
/// min(decay, (1 + n) / (10 + n)), TensorFlow's rule, by which the first values fade soon. Integer tensors are copied.
class Ema {
 public:
  Ema(double decay, std::vector<NamedTensor> tensors);  ///< 0 <= decay < 1; begins with their values
  void update();
  /// Exchanges values and averages: once before evaluating or saving, once after. Error: kInternal for update()
  /// between.
  void swap();
  /// The averages as "ema.NAME" and the number of updates as "ema.updates": handles. Put back with copy_tensors.
  std::vector<NamedTensor> state() const;

 private:
  double decay_;
  bool swapped_ = false;
  std::vector<NamedTensor> tensors_, averages_;
  at::Tensor updates_;  // int64 scalar
};

/// Ends a run whose metric doesn't improve. All of its state is public: store it and put it back.
struct EarlyStopping {
  std::int64_t patience = 0;  ///< rounds in a row without improvement that end the run; 0: never
  double min_delta = 0;       ///< an improvement is more than this
  bool higher_is_better = true;
  std::int64_t round = 0, best_round = -1;  ///< rounds seen; which was the best, -1: none yet
  double best = 0;                          ///< its metric

  bool add(double metric);  ///< true when it is the best so far; one that isn't finite never is
  bool stop() const { return patience > 0 && round - 1 - best_round >= patience; }
};

/// Writes tensors under their names as safetensors, appearing complete or not at all. Errors: kIo, kNotFound.
void write_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                   const std::map<std::string, std::string>& metadata = {});
/// Errors: kNotFound, kIo, kCorrupt, kUnsupported.
std::vector<NamedTensor> read_tensors(const std::filesystem::path& path);
/// Copies `values` into `tensors` by name, to the bit. Error: kMismatch, beginning with `where`, listing every tensor
/// that is missing, unexpected or of another shape, or naming one of another type; then nothing was copied.
void copy_tensors(const std::string& where, std::span<const NamedTensor> tensors, std::span<const NamedTensor> values);

}  // namespace vlmzoo
