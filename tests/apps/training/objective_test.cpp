// The pieces of `train`, on the tiny checkpoints of both models.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "support.hpp"
#include "tiny_models.hpp"
#include "training/augmentation.hpp"
#include "training/batches.hpp"
#include "training/export.hpp"
#include "training/objective.hpp"
#include "training/region_targets.hpp"
#include "training/trainer.hpp"
#include "vlmzoo/nn/recompute.hpp"
#include "vlmzoo/system.hpp"

namespace fs = std::filesystem;
using namespace vlmzoo;
using namespace vlmzoo::app;
using namespace vlmzoo::test;

namespace {

const std::vector<std::string> kModels = {"internvl/release", "llama_vision/instruct"};

ModelConfig trainable_config(const std::string& name) {
  ModelConfig config;
  config.pretrained_path = checkpoint(name, 3).string();
  config.freeze_vision_encoder = false;
  config.max_tiles = 1;
  config.precision = {Precision::kFp32, Precision::kFp32, Precision::kFp32};
  config.class_names = {"none", "one", "several"};
  config.classifier = {{8}, {0.0}, /*batch_norm=*/false, "gelu"};
  return config;
}

std::unique_ptr<Model> trainable_model(const ModelConfig& config) {
  CreateOptions options;
  options.trainable = true;
  return open_model(config, options);
}

/// Pictures of the test data with labels, and answers for some.
Dataset dataset() {
  const fs::path images = fs::path(VLMZOO_TEST_DATA) / "data" / "images";
  Dataset data;
  data.class_names = {"none", "one", "several"};
  const char* files[] = {"square.png", "landscape.jpg", "grey.png", "portrait.jpg", "palette.png", "rgba.png"};
  for (std::int64_t i = 0; const char* file : files) {
    Sample sample;
    sample.id = file;
    sample.image = images / file;
    sample.label = i % 3;
    if (i != 2) sample.answer = i == 0 ? "there is one receipt" : "there are no receipts at all";
    data.samples.push_back(sample);
    ++i;
  }
  return data;
}

/// None in the first picture, one in the others.
std::vector<std::vector<Region>> regions_of(const Dataset& data) {
  std::vector<std::vector<Region>> regions;
  for (std::size_t i = 0; i < data.samples.size(); ++i) {
    const double side = 0.15 * static_cast<double>(i);
    Region region;
    region.corners = {{{0, 0}, {side, 0}, {side, 0.5}, {0, 0.5}}};
    regions.push_back(i > 0 ? std::vector<Region>{region} : std::vector<Region>{});
  }
  return regions;
}

BatchPlan text_plan() {
  BatchPlan plan;
  plan.text = plan.answers = true;
  plan.prompt = "How many receipts are there?";
  return plan;
}

/// Gradients of everything trained, after backward passes over `batches`.
std::map<std::string, at::Tensor> gradients(const Model& model, Head head, TrainingConfig training,
                                            const BatchMaker& maker,
                                            const std::vector<std::vector<std::int64_t>>& batches, int threads = 1) {
  at::set_num_threads(threads);
  Objective objective(&model, head, training, {});
  for (const TrainedTensor& tensor : objective.trained()) tensor.value.mutable_grad() = at::Tensor();
  std::vector<std::int64_t> all;
  for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
  const StepTotals totals = maker.totals(all, {});
  std::vector<Batch> made;
  for (const auto& batch : batches) made.push_back(maker.make(batch, 0));
  if (training.parallel_batches) {
    objective.backward(made, totals, /*language=*/true);
  } else {
    for (const Batch& batch : made) objective.backward(batch, totals, /*language=*/true);
  }
  std::map<std::string, at::Tensor> result;
  for (const TrainedTensor& tensor : objective.trained()) {
    if (tensor.value.grad().defined()) result[tensor.name] = tensor.value.grad().clone();
  }
  return result;
}

double largest_difference(const std::map<std::string, at::Tensor>& a, const std::map<std::string, at::Tensor>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (const auto& [name, gradient] : a) {
    const double scale = std::max(1e-3, gradient.abs().max().item<double>());
    worst = std::max(worst, (gradient - b.at(name)).abs().max().item<double>() / scale);
  }
  return worst;
}

}  // namespace

TEST_CASE("micro-batches add up to the gradient of one batch, for all losses and unequal answers") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    ModelConfig config = trainable_config(name);
    config.max_tiles = 4;  // pictures of unequal numbers of tiles
    const auto model = trainable_model(config);
    const Head head = make_head(model->info(), config);
    const Dataset data = dataset();
    const auto regions = regions_of(data);
    BatchPlan plan = text_plan();
    plan.regions = &regions;
    TrainingConfig training;
    training.region_loss_weight = 0.5;
    const BatchMaker maker(*model, data, plan);
    const auto whole = gradients(*model, head, training, maker, {{0, 1, 2, 3, 4, 5}});
    const auto parts = gradients(*model, head, training, maker, {{0, 1, 2, 3}, {4, 5}});
    CHECK(whole.size() > 40);
    CHECK(whole.contains("region.weight"));
    CHECK(largest_difference(whole, parts) < 1e-4);  // fp32 sums in another order
  }
}

TEST_CASE("a batch is judged by the losses that it is trained with") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const ModelConfig config = trainable_config(name);
    const auto model = trainable_model(config);
    Head head = make_head(model->info(), config);
    const Dataset data = dataset();
    const BatchMaker maker(*model, data, text_plan());
    const TrainingConfig training;
    Objective objective(model.get(), head, training, {});
    const std::vector<std::int64_t> all = {0, 1, 2, 3, 4, 5}, first = {0, 1, 2}, rest = {3, 4, 5};
    const StepTotals totals = maker.totals(all, {});
    const LossParts trained = objective.backward(maker.make(all, 0), totals, /*language=*/true);
    const auto whole = objective.judge(maker.make(all, 0), /*answers=*/true);
    const auto a = objective.judge(maker.make(first, 0), true), b = objective.judge(maker.make(rest, 0), true);
    CHECK(whole.answer_tokens == totals.answer_tokens);
    CHECK(a.answer_tokens + b.answer_tokens == totals.answer_tokens);
    const auto tokens = static_cast<double>(totals.answer_tokens);
    CHECK(whole.answer_loss / tokens == doctest::Approx(trained.language.value()).epsilon(1e-5));
    CHECK((a.answer_loss + b.answer_loss) / tokens == doctest::Approx(trained.language.value()).epsilon(1e-5));
    CHECK(at::allclose(whole.logits.narrow(0, 0, 3), a.logits, 1e-4, 1e-5));
    CHECK(objective.judge(maker.make(first, 0), /*answers=*/false).answer_tokens == 0);
  }
}

TEST_CASE(
    "batches computed at once give the gradient of one after the other, the same bits with any number of threads") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const ModelConfig config = trainable_config(name);
    const auto model = trainable_model(config);
    const Dataset data = dataset();
    const BatchMaker maker(*model, data, text_plan());
    const std::vector<std::vector<std::int64_t>> batches = {{0, 1}, {2}, {3}, {4}, {5}};
    const auto in_turn = gradients(*model, make_head(model->info(), config), {}, maker, batches);
    TrainingConfig at_once;
    at_once.parallel_batches = true;
    const auto alone = gradients(*model, make_head(model->info(), config), at_once, maker, batches, /*threads=*/1);
    const auto together = gradients(*model, make_head(model->info(), config), at_once, maker, batches, /*threads=*/3);
    CHECK(largest_difference(in_turn, together) < 1e-4);  // fp32 sums in another order
    CHECK(largest_difference(alone, together) == 0);
  }
  at::set_num_threads(1);
}

TEST_CASE("activation checkpointing gives the same gradients") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const ModelConfig config = trainable_config(name);
    const auto model = trainable_model(config);
    const Head head = make_head(model->info(), config);
    const Dataset data = dataset();
    const BatchMaker maker(*model, data, text_plan());
    TrainingConfig saving;
    saving.memory_efficient = true;
    const auto kept = gradients(*model, head, {}, maker, {{0, 1, 2}});
    const auto again = gradients(*model, head, saving, maker, {{0, 1, 2}});
    CHECK(largest_difference(kept, again) < 1e-6);
  }
}

TEST_CASE("activation checkpointing leaves a frozen, packed vision tower out of the backward pass") {
  if (!cpu_features().fbgemm()) {
    MESSAGE("skipped: this processor has no AVX2");
    return;
  }
  for (const std::string& name : kModels) {
    CAPTURE(name);
    ModelConfig config = trainable_config(name);
    config.freeze_vision_encoder = true;
    config.precision.vision = Precision::kInt8;
    const auto model = trainable_model(config);
    const Head head = make_head(model->info(), config);
    const Dataset data = dataset();
    const BatchMaker maker(*model, data, text_plan());
    TrainingConfig saving;
    saving.memory_efficient = true;
    const auto kept = gradients(*model, head, {}, maker, {{0, 1}});
    const auto again = gradients(*model, head, saving, maker, {{0, 1}});
    CHECK(kept.size() > 20);
    CHECK(largest_difference(kept, again) < 1e-6);
    const RecomputeScope recompute(true);
    const std::vector<std::int64_t> one = {0};
    CHECK(!model->encode_images(maker.make(one, 0).inputs).last_hidden_state.requires_grad());
  }
}

TEST_CASE("frozen roles get no gradients, the others do") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    ModelConfig config = trainable_config(name);
    config.freeze_vision_encoder = true;
    const auto model = trainable_model(config);
    const Dataset data = dataset();
    const BatchMaker maker(*model, data, text_plan());
    const auto found = gradients(*model, make_head(model->info(), config), {}, maker, {{0, 1}});
    for (const auto& [tensor, gradient] : found) {
      CHECK(tensor.find("vision_model") == std::string::npos);
      CHECK(gradient.isfinite().all().item<bool>());
    }
    CHECK(found.size() > 20);
  }
}

TEST_CASE("an epoch's batches hold every sample once, in an order that seed and epoch decide") {
  TrainingConfig training;
  training.batch_size = 4;
  training.gradient_accumulation_steps = 2;
  training.epochs = 3;
  const StepPlan plan(21, training, /*no_single=*/true);
  CHECK(plan.steps_per_epoch() == 3);
  CHECK(plan.total_steps() == 9);
  const auto epoch = [&](std::int64_t first) {
    std::vector<std::int64_t> samples;
    for (std::int64_t number = plan.batches_before(first); number < plan.batches_before(first + 3); ++number) {
      const std::vector<std::int64_t> batch = plan.batch(number);
      CHECK(batch.size() > 1);  // the last of 21 joined the batch before it
      samples.insert(samples.end(), batch.begin(), batch.end());
    }
    return samples;
  };
  const std::vector<std::int64_t> first = epoch(0), second = epoch(3);
  CHECK(first != second);
  CHECK(first == epoch(0));
  for (std::vector<std::int64_t> samples : {first, second}) {
    std::sort(samples.begin(), samples.end());
    CHECK(samples.size() == 21);
    for (std::int64_t i = 0; i < 21; ++i) CHECK(samples[static_cast<std::size_t>(i)] == i);
  }
}

TEST_CASE("answers stand behind the prompt, each of their tokens predicted by the one before, and questions are cut") {
  const ModelConfig config = trainable_config("internvl/release");
  const auto model = trainable_model(config);
  Dataset data = dataset();
  data.samples[1].question = "<image>\nTell me how many receipts lie on the table in this picture, please, in one word";
  BatchPlan plan = text_plan();
  plan.max_length = 24;
  const BatchMaker maker(*model, data, plan);
  const std::vector<std::int64_t> samples = {0, 1, 2};
  const Batch batch = maker.make(samples, 0);
  const Tokenizer& tokenizer = *model->tokenizer();
  for (std::size_t row = 0; row < 3; ++row) {
    const at::Tensor targets = batch.targets[static_cast<std::int64_t>(row)];
    std::vector<TokenId> expected, got;
    for (std::int64_t i = 0; i < targets.size(0); ++i) {
      if (const auto target = targets[i].item<std::int64_t>(); target >= 0) expected.push_back(target);
    }
    if (data.samples[row].answer.empty()) {
      CHECK(expected.empty());
      continue;
    }
    CHECK(tokenizer.id_of("<|im_end|>") == expected.back());
    CHECK(tokenizer.decode(expected) == data.samples[row].answer);
    const std::int64_t prompt = batch.prompt_lengths[row];
    for (std::size_t i = 0; i + 1 < expected.size(); ++i) {
      const auto at = prompt + static_cast<std::int64_t>(i);
      got.push_back(batch.inputs.input_ids[static_cast<std::int64_t>(row)][at].item<std::int64_t>());
    }
    expected.pop_back();
    CHECK(got == expected);
  }
  // The long question lost its end; picture and template are whole.
  Request whole{data.samples[1].question, {load_image(data.samples[1].image)}};
  CHECK(batch.prompt_lengths[1] < model->preprocess({&whole, 1}).input_ids.size(1));
  Request empty{"<image>\n", {whole.images}};
  CHECK(batch.prompt_lengths[1] > model->preprocess({&empty, 1}).input_ids.size(1));

  plan.max_length = 3;
  CHECK(code_of([&] { BatchMaker(*model, data, plan); }) == ErrorCode::kMismatch);
}

TEST_CASE("augmentation is the same for a sample and an epoch, and keeps what a picture holds") {
  Image image;
  image.width = 3;
  image.height = 2;
  for (std::uint8_t i = 0; i < 18; ++i) image.pixels.push_back(static_cast<std::uint8_t>(i * 10));
  Augmentation turned;
  turned.quarter_turns = 1;
  Image result = moved(image, turned);
  CHECK(result.width == 2);
  CHECK(result.height == 3);
  CHECK(result.pixels[0] == image.pixels[9]);  // bottom left comes to the top left
  for (int i = 0; i < 3; ++i) result = moved(result, turned);
  CHECK(result.pixels == image.pixels);
  Augmentation mirrored;
  mirrored.mirrored = true;
  CHECK(moved(image, mirrored).pixels[0] == image.pixels[6]);
  CHECK(moved(moved(image, mirrored), mirrored).pixels == image.pixels);
  Augmentation lit;
  lit.brightness = 250;
  CHECK(augmented(image, lit).pixels.back() == 255);
  CHECK(moved(image, lit).pixels == image.pixels);
}

TEST_CASE("regions come to the patches that see them, through each model's own tiling") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    ModelConfig config;
    config.pretrained_path = checkpoint(name, 3).string();
    const auto model = open_model(config);
    const RegionTargets targets(*model);
    Region region;
    region.corners = {{{0, 0}, {0.5, 0}, {0.5, 0.5}, {0, 0.5}}};  // the top left quarter
    const Request request{"", {draw_regions({&region, 1}, 224, 224)}};
    const ModelInputs inputs = model->preprocess({&request, 1}, /*vision_only=*/true);
    const at::Tensor hidden = model->encode_images(inputs).last_hidden_state;
    const auto patches = targets(inputs.pixel_values, hidden.size(1));
    const double seen = patches.weights.sum().item<double>();
    CHECK(seen > 0);
    const at::Tensor covered = patches.targets.select(2, 0) * patches.weights.select(2, 0);
    // A quarter of what is seen; InternVL's thumbnail is a tile like the others.
    CHECK(covered.sum().item<double>() / seen == doctest::Approx(0.25).epsilon(0.12));
    CHECK(patches.targets[0][0][0].item<double>() > 0.9);
    CHECK(patches.targets.select(2, 1).sum().item<double>() > 0);
  }
}

TEST_CASE("a trained model is written in its own layout and reads back as what it was in memory") {
  for (const std::string& name : kModels) {
    CAPTURE(name);
    const ModelConfig config = trainable_config(name);
    const auto model = trainable_model(config);
    {
      const at::NoGradGuard no_graph;
      for (const Trainable& trainable : model->parameters().trainable) trainable.value.mul_(1.0625F);
    }
    const TemporaryFolder folder;
    export_model(*model, config, folder / "trained");
    ModelConfig original = config, written = config;
    written.pretrained_path = (folder / "trained").string();
    const auto again = open_model(written), before = open_model(original);
    const Request request{"<image>\nHow many?", {load_image(dataset().samples[0].image)}};
    const auto run = [&](const Model& of) {
      const at::NoGradGuard no_graph;
      const ModelInputs inputs = of.preprocess({&request, 1});
      const ImageFeatures features = of.encode_images(inputs);
      const auto cache = of.new_cache(1, inputs.input_ids.size(1));
      return of.forward(inputs, &features, *cache).logits;
    };
    const at::Tensor logits = run(*again);
    CHECK(at::allclose(logits, run(*model), 1e-4, 1e-4));
    CHECK(!at::allclose(logits, run(*before), 1e-2, 1e-2));
  }
}
