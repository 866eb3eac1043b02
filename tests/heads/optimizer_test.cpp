#include <ATen/CPUGeneratorImpl.h>

#include "training_golden.hpp"
#include "vlmzoo/training.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

constexpr int kSteps = 12;

struct Shape {
  const char* name;
  std::vector<std::int64_t> sizes;
};
const std::vector<Shape> kShapes = {{"embedding", {7, 4}}, {"norm", {5}}, {"tall", {8, 4}}, {"wide", {4, 8}},
                                    {"square", {6, 6}},    {"q", {4, 6}}, {"k", {2, 6}}};

/// The formula's tensors. With `fused` q and k lie in one tensor, as adapters have them.
std::vector<TrainedTensor> tensors(bool fused) {
  std::vector<TrainedTensor> result;
  for (std::size_t i = 0; i < kShapes.size(); ++i) {
    const auto& [name, sizes] = kShapes[i];
    const at::Tensor value = formula_tensor(20 + static_cast<std::int64_t>(i), sizes, 1, 0);
    if (fused && std::string(name) == "k") {
      result.back() = {"qk", at::cat({result.back().value, value}), {4, 2}};
    } else {
      result.push_back({name, value, {}});
      if (i >= 2) result.back().matrices = {sizes[0]};
    }
  }
  for (const TrainedTensor& tensor : result) tensor.value.requires_grad_(true);
  return result;
}

double learning_rate(int step) { return 0.02 / (1 + step); }

/// Steps [first, last) with the formula's gradients; the embedding gets none in step 3.
void run(Optimizer& optimizer, int first, int last) {
  for (int step = first; step < last; ++step) {
    optimizer.zero_gradients();
    const auto gradient = [step](std::int64_t index) {
      return formula_tensor(100 + 10 * step + index, kShapes[static_cast<std::size_t>(index)].sizes, 2, 0);
    };
    for (std::size_t i = 0; i < optimizer.tensors().size(); ++i) {
      const TrainedTensor& tensor = optimizer.tensors()[i];
      if (tensor.name == "embedding" && step == 3) continue;
      tensor.value.mutable_grad() =
          tensor.name == "qk" ? at::cat({gradient(5), gradient(6)}) : gradient(static_cast<std::int64_t>(i));
    }
    optimizer.step(learning_rate(step));
  }
}

at::Tensor value_of(const Optimizer& optimizer, const std::string& name) {
  for (const TrainedTensor& tensor : optimizer.tensors()) {
    if (tensor.name == name) return tensor.value;
    if (tensor.name == "qk" && name == "q") return tensor.value.narrow(0, 0, 4);
    if (tensor.name == "qk" && name == "k") return tensor.value.narrow(0, 4, 2);
  }
  FAIL("no tensor " << name);
  return {};
}

class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("vlmzoo-optimizer-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("AdamW gives PyTorch's numbers, decay on matrices alone, a tensor without gradient left out") {
  Optimizer optimizer({.weight_decay = 0.1}, tensors(false));
  run(optimizer, 0, kSteps);
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.name);
    CHECK(relative_error(value_of(optimizer, shape.name), training_goldens()["adamw"][shape.name]) < 1e-6);
  }
}

TEST_CASE("Muon gives PyTorch's numbers in fp32, each matrix of a fused tensor by itself") {
  for (const bool fused : {false, true}) {
    Optimizer optimizer({.muon = true, .weight_decay = 0.1}, tensors(fused));
    run(optimizer, 0, kSteps);
    for (const Shape& shape : kShapes) {
      CAPTURE(shape.name);
      CHECK(relative_error(value_of(optimizer, shape.name), training_goldens()["muon"][shape.name]) < 1e-6);
    }
  }
}

TEST_CASE("a run continued from a file has the same bits as an unbroken one") {
  at::set_num_threads(1);
  const Folder folder;
  for (const bool muon : {false, true}) {
    CAPTURE(muon);
    const OptimizerConfig config{.muon = muon, .weight_decay = 0.1};
    const auto named = [](const Optimizer& optimizer) {
      std::vector<NamedTensor> result = optimizer.state();
      for (const TrainedTensor& tensor : optimizer.tensors()) result.push_back({tensor.name, tensor.value});
      return result;
    };
    const auto averaged = [](const Optimizer& optimizer) {
      std::vector<NamedTensor> result;
      for (const TrainedTensor& tensor : optimizer.tensors()) result.push_back({tensor.name, tensor.value});
      return result;
    };
    Optimizer unbroken(config, tensors(true));
    Ema average(0.9, averaged(unbroken));
    for (int step = 0; step < kSteps; ++step) {
      run(unbroken, step, step + 1);
      average.update();
      if (step != 4) continue;
      write_tensors(folder / "optimizer.safetensors", named(unbroken));
      write_tensors(folder / "average.safetensors", average.state());
    }
    Optimizer resumed(config, tensors(true));
    copy_tensors("optimizer", named(resumed), read_tensors(folder / "optimizer.safetensors"));
    Ema resumed_average(0.9, averaged(resumed));
    copy_tensors("average", resumed_average.state(), read_tensors(folder / "average.safetensors"));
    for (int step = 5; step < kSteps; ++step) {
      run(resumed, step, step + 1);
      resumed_average.update();
    }
    for (std::size_t i = 0; i < named(unbroken).size(); ++i) {
      CAPTURE(named(unbroken)[i].name);
      CHECK(at::equal(named(unbroken)[i].tensor, named(resumed)[i].tensor));
    }
    for (std::size_t i = 0; i < average.state().size(); ++i) {
      CHECK(at::equal(average.state()[i].tensor, resumed_average.state()[i].tensor));
    }
  }
}

TEST_CASE("Muon keeps one tensor of state per matrix, AdamW two and a counter") {
  const auto names = [](bool muon) {
    std::vector<std::string> result;
    for (const NamedTensor& named : Optimizer({.muon = muon}, tensors(true)).state()) result.push_back(named.name);
    return result;
  };
  CHECK(names(false).size() == 3 * 6);
  CHECK(names(true) == std::vector<std::string>{"embedding.exp_avg", "embedding.exp_avg_sq", "embedding.step",
                                                "norm.exp_avg", "norm.exp_avg_sq", "norm.step", "tall.momentum_buffer",
                                                "wide.momentum_buffer", "square.momentum_buffer",
                                                "qk.momentum_buffer"});
}

TEST_CASE("a Muon step moves a matrix by about the size of an AdamW step, in orthogonal directions") {
  Optimizer optimizer({.muon = true, .weight_decay = 0}, {{"w", at::zeros({32, 64}).requires_grad_(true), {32}}});
  optimizer.tensors()[0].value.mutable_grad() =
      at::randn({32, 64}, at::make_generator<at::CPUGeneratorImpl>(1)).mul_(1e-6);
  optimizer.step(1);
  const at::Tensor moved = optimizer.tensors()[0].value.detach();
  const at::Tensor singular = std::get<1>(at::linalg_svd(moved / (0.2 * std::sqrt(64.0))));
  CHECK(singular.max().item<double>() < 1.3);
  CHECK(singular.min().item<double>() > 0.5);
  CHECK(moved.square().mean().sqrt().item<double>() == doctest::Approx(0.2).epsilon(0.25));
  // No gradient direction at all is no step, and no NaN.
  optimizer.zero_gradients();
  Optimizer still({.muon = true, .weight_decay = 0}, {{"w", at::ones({3, 3}).requires_grad_(true), {3}}});
  still.tensors()[0].value.mutable_grad() = at::zeros({3, 3});
  still.step(1);
  CHECK(at::equal(still.tensors()[0].value, at::ones({3, 3})));
}

TEST_CASE("a head's hidden matrices are Muon's; biases, norms and output layers AdamW's") {
  const Head head = formula_head(toy_config()).with_own_response_generator(ToyModel());
  std::vector<std::string> matrices, others;
  for (const TrainedTensor& tensor : trained_tensors(head)) {
    CHECK(tensor.value.requires_grad());
    (tensor.matrices.empty() ? others : matrices).push_back(tensor.name);
  }
  CHECK(matrices == std::vector<std::string>{"vision_projection.weight", "classification_head.layers.0.linear.weight",
                                             "classification_head.layers.1.linear.weight"});
  CHECK(others.size() == 1 + 2 * 3 + 2 + 2);
  for (const NamedTensor& named : head.tensors()) CHECK(named.tensor.requires_grad() == named.trainable);
}

TEST_CASE("either optimizer teaches a head three classes") {
  at::set_num_threads(1);
  for (const bool muon : {false, true}) {
    CAPTURE(muon);
    HeadConfig config = toy_config();
    config.classifier.dropout_rates = {0, 0};
    Head head = fresh_head(config, 3);
    const at::Tensor pooled = formula_tensor(4, {48, 12}, 4, 0);
    const at::Tensor labels = pooled.narrow(1, 0, 3).argmax(1);
    Optimizer optimizer({.muon = muon}, trained_tensors(head));
    double first = 0, last = 0;
    for (int step = 0; step < 80; ++step) {
      optimizer.zero_gradients();
      const at::Tensor loss = classification_loss(head.forward_training(pooled).logits, labels);
      loss.backward();
      CHECK(std::isfinite(clip_gradients(optimizer.tensors(), 1)));
      optimizer.step(0.02);
      (step == 0 ? first : last) = loss.item<double>();
    }
    CHECK(first > 0.9);
    CHECK(last < 0.1);
  }
}

TEST_CASE("tensors that can't be optimized are refused") {
  const auto check = [](const auto& work, std::string_view text, ErrorCode code = ErrorCode::kMismatch) {
    const std::optional<Error> error = error_of(work);
    REQUIRE(error.has_value());
    CAPTURE(error->what());
    CHECK((error->code() == code));
    CHECK(contains(*error, text));
  };
  const at::Tensor square = at::zeros({4, 4});
  check([&] { Optimizer({}, {{"a", square, {}}, {"a", square, {}}}); }, "two tensors are named a");
  check([&] { Optimizer({}, {{"a", square.to(at::kBFloat16), {}}}); }, "contiguous fp32");
  check([&] { Optimizer({}, {{"a", at::zeros({4, 3}).t(), {}}}); }, "contiguous fp32");
  check([&] { Optimizer({}, {{"a", square, {3}}}); }, "a is [4, 4]; expected matrices of 3 rows");
  check([&] { Optimizer({}, {{"a", square, {5, -1}}}); }, "expected matrices");
  check([&] { Optimizer({}, {{"a", at::zeros({4}), {4}}}); }, "expected matrices");
  check([&] { Optimizer({.beta1 = 1}, {}); }, "beta1 is 1", ErrorCode::kConfig);
  check([&] { Optimizer({.weight_decay = -1}, {}); }, "weight_decay is -1", ErrorCode::kConfig);
  check([&] { Optimizer({}, {}).step(std::numeric_limits<double>::quiet_NaN()); }, "learning rate is nan",
        ErrorCode::kConfig);
}
