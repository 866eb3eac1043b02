#include "vlmzoo/training.hpp"

#include <numbers>

#include "training_golden.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

std::vector<TrainedTensor> with_gradients(double scale) {
  const std::vector<std::vector<std::int64_t>> shapes = {{7, 4}, {5}, {8, 4}, {4, 8}, {6, 6}, {4, 6}, {2, 6}};
  std::vector<TrainedTensor> result;
  for (const std::vector<std::int64_t>& shape : shapes) {
    const auto index = std::ssize(result);
    result.push_back({std::to_string(index), at::zeros(shape), {}});
    result.back().value.mutable_grad() = formula_tensor(100 + index, shape, scale, 0);
  }
  result.push_back({"without", at::zeros({3}), {}});
  return result;
}

std::filesystem::path temporary(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("vlmzoo-training-" + std::to_string(::getpid()) + name);
}

}  // namespace

TEST_CASE("gradients are clipped as PyTorch's clip_grad_norm_ does") {
  for (const Json& golden : training_goldens()["clip"]) {
    const std::vector<TrainedTensor> tensors = with_gradients(2);
    const double norm = clip_gradients(tensors, golden["max_norm"]);
    CHECK(norm == doctest::Approx(golden["norm"].get<double>()).epsilon(1e-6));
    CHECK(relative_error(tensors[2].value.grad(), golden["tall"]) < 1e-6);
  }
}

TEST_CASE("gradients that aren't finite are reported and left alone; large finite ones are clipped") {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<TrainedTensor> tensors = with_gradients(2);
    tensors[1].value.mutable_grad()[2].fill_(bad);
    const at::Tensor before = tensors[0].value.grad().clone();
    CHECK(!std::isfinite(clip_gradients(tensors, 1)));
    CHECK(at::equal(tensors[0].value.grad(), before));
  }

  const std::vector<TrainedTensor> large =
      with_gradients(1e18);  // each tensor's norm fits fp32, 7 · 1e36 summed as well
  CHECK(clip_gradients(large, 1) > 1e18);
  CHECK(clip_gradients(large, 1) == doctest::Approx(1).epsilon(1e-5));
  CHECK(clip_gradients({}, 1) == 0);
}

TEST_CASE("the learning rate warms up and decays as in transformers") {
  for (const auto& [key, decay] :
       {std::pair{"cosine", Schedule::Decay::kCosine}, {"linear", Schedule::Decay::kLinear}}) {
    for (const Json& golden : training_goldens()[key]) {
      const Schedule schedule{0.5, golden["warmup"], golden["total"], decay};
      CAPTURE(key);
      for (std::int64_t step = 0; step <= schedule.total_steps; ++step) {
        CAPTURE(step);
        // While it warms up we are a step ahead: no step is lost to a rate of 0.
        const std::int64_t theirs = step < schedule.warmup_steps ? step + 1 : step;
        CHECK(learning_rate_at(schedule, step) ==
              doctest::Approx(golden["rates"][theirs].get<double>()).epsilon(1e-12));
      }
      CHECK(learning_rate_at(schedule, 0) > 0);
      CHECK(learning_rate_at(schedule, schedule.total_steps - 1) > 0);
      CHECK(learning_rate_at(schedule, schedule.total_steps + 5) < 1e-12);
    }
  }
  CHECK(learning_rate_at({0.5, 2, 10, Schedule::Decay::kConstant}, 9) == 0.5);
  CHECK(learning_rate_at({0.5, 200, 10, Schedule::Decay::kCosine}, 9) == doctest::Approx(0.025));
}

TEST_CASE("the moving average follows its formula and exchanges places with the values") {
  const at::Tensor value = at::full({2}, 1.0F).requires_grad_(true), count = at::full({}, 3, at::kLong);
  Ema ema(0.5, {{"value", value}, {"count", count, false}});
  double expected = 1;
  for (int n = 1; n <= 20; ++n) {
    {
      const at::NoGradGuard no_graph;
      at::Tensor(value).fill_(n);
      at::Tensor(count).fill_(3 + n);
    }
    ema.update();
    const double decay = std::min(0.5, (1.0 + n) / (10.0 + n));
    expected += (1 - decay) * (n - expected);
  }
  CHECK(ema.state()[0].tensor[0].item<double>() == doctest::Approx(expected).epsilon(1e-6));
  CHECK(ema.state()[1].tensor.item<std::int64_t>() == 23);
  CHECK(ema.state()[0].name == "ema.value");
  CHECK(ema.state()[2].name == "ema.updates");
  CHECK(ema.state()[2].tensor.item<std::int64_t>() == 20);
  ema.swap();
  CHECK(value[0].item<double>() == doctest::Approx(expected).epsilon(1e-6));
  CHECK(value.requires_grad());
  CHECK(error_of([&] { ema.update(); })->code() == ErrorCode::kInternal);
  CHECK(error_of([&] { ema.state(); })->code() == ErrorCode::kInternal);
  ema.swap();
  CHECK(value[0].item<double>() == 20);
}

TEST_CASE("a run stops after so many rounds without an improvement") {
  EarlyStopping stopping{.patience = 2, .min_delta = 0.01};
  CHECK(stopping.add(0.5));
  CHECK(!stopping.add(0.505));  // less than min_delta
  CHECK(!stopping.stop());
  CHECK(stopping.add(0.6));
  CHECK(!stopping.add(std::numeric_limits<double>::quiet_NaN()));
  CHECK(!stopping.stop());
  CHECK(!stopping.add(0.6));
  CHECK(stopping.stop());
  CHECK(stopping.best == 0.6);
  CHECK(stopping.best_round == 2);

  EarlyStopping loss{.patience = 1, .higher_is_better = false};
  CHECK(!loss.add(std::numeric_limits<double>::infinity()));
  CHECK(loss.stop());
  CHECK(loss.add(3.0));
  CHECK(!loss.stop());
  CHECK(loss.add(2.0));

  EarlyStopping never;
  for (int i = 0; i < 100; ++i) never.add(1);
  CHECK(!never.stop());
}

TEST_CASE("tensors of every type come back from a file with their bits") {
  const std::filesystem::path path = temporary(".safetensors");
  std::vector<NamedTensor> written;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                                    at::kChar, at::kByte, at::kBool}) {
    written.push_back({c10::toString(type), formula_tensor(1, {3, 5}, 90, 50).to(type).t()});  // not contiguous
  }
  written.push_back({"scalar", at::full({}, 7, at::kLong)});
  written.push_back({"empty", at::zeros({0, 4})});
  write_tensors(path, written, {{"step", "7"}});
  const std::vector<NamedTensor> read = read_tensors(path);
  REQUIRE(read.size() == written.size());
  for (const NamedTensor& expected : written) {
    CAPTURE(expected.name);
    const auto it =
        std::find_if(read.begin(), read.end(), [&](const NamedTensor& t) { return t.name == expected.name; });
    REQUIRE(it != read.end());
    CHECK((it->tensor.scalar_type() == expected.tensor.scalar_type()));
    CHECK(at::equal(it->tensor, expected.tensor));
  }
  std::filesystem::remove(path);
  CHECK(error_of([&] { read_tensors(path); })->code() == ErrorCode::kNotFound);
}

TEST_CASE("tensors are copied by name, all or none") {
  const at::Tensor a = at::zeros({2}), b = at::zeros({3});
  const std::vector<NamedTensor> targets = {{"a", a}, {"b", b}};
  copy_tensors("test", targets, std::vector<NamedTensor>{{"b", at::ones({3})}, {"a", at::ones({2})}});
  CHECK(a.sum().item<double>() == 2);
  CHECK(b.sum().item<double>() == 3);

  const auto message = [&](std::vector<NamedTensor> values) {
    const std::optional<Error> error = error_of([&] { copy_tensors("checkpoint x", targets, values); });
    REQUIRE(error.has_value());
    CHECK((error->code() == ErrorCode::kMismatch));
    CHECK(a.sum().item<double>() == 2);
    return std::string(error->what());
  };
  const std::string all = message({{"a", at::zeros({4})}, {"c", at::zeros({1})}});
  CHECK(all.starts_with("checkpoint x: "));
  CHECK(all.find("missing: b [3]") != std::string::npos);
  CHECK(all.find("unexpected: \"c\"") != std::string::npos);
  CHECK(all.find("a is [4], expected [2]") != std::string::npos);
  CHECK(message({{"a", at::zeros({2})}, {"b", at::zeros({3}, at::kLong)}}).find("b is Long, expected Float") !=
        std::string::npos);
}

TEST_CASE("settings of a run that make no sense are refused") {
  const auto check = [](const auto& work, std::string_view text) {
    const std::optional<Error> error = error_of(work);
    REQUIRE(error.has_value());
    CAPTURE(error->what());
    CHECK((error->code() == ErrorCode::kConfig));
    CHECK(contains(*error, text));
  };
  check([] { clip_gradients({}, 0); }, "gradient_clip is 0");
  check([] { Ema(1, {}); }, "moving average is 1");
  check([] { learning_rate_at({.total_steps = 0}, 0); }, "0 warm-up steps of 0");
  check([] { learning_rate_at({.warmup_steps = -1}, 0); }, "-1 warm-up");
  check([] { learning_rate_at({}, -1); }, "step -1");
}
