#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "tiny_models.hpp"
#include "vlmzoo/training.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

std::unique_ptr<Model> trainable_model(const std::string& name) {
  ModelConfig config;
  config.pretrained_path = checkpoint(name, 1).string();
  config.freeze_vision_encoder = false;
  CreateOptions options;
  options.trainable = true;
  return open_model(config, options);
}

}  // namespace

TEST_CASE("every model's hidden matrices are Muon's, embeddings and lm_head AdamW's") {
  for (const std::string name : {"internvl/release", "internvl/hf", "llama_vision/instruct"}) {
    CAPTURE(name);
    const std::unique_ptr<Model> model = trainable_model(name);
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const Parameter& parameter : model->parameters().list) shapes[parameter.name] = parameter.shape;
    std::int64_t matrices = 0, others = 0, fused = 0;
    for (const TrainedTensor& tensor : trained_tensors(*model)) {
      CAPTURE(tensor.name);
      REQUIRE(shapes.contains(tensor.name));
      const bool vocabulary = tensor.value.size(0) >= model->info().vocab_size;
      CHECK((tensor.matrices.empty() || (tensor.value.dim() == 2 && !vocabulary)));
      if (tensor.value.dim() < 2 || vocabulary) CHECK(tensor.matrices.empty());
      if (tensor.name.ends_with("mlp.down_proj.weight")) CHECK(tensor.matrices == std::vector{tensor.value.size(0)});
      ++(tensor.matrices.empty() ? others : matrices);
      fused += tensor.matrices.size() > 1;
    }
    CHECK(matrices > 10);
    CHECK(others > 10);
    CHECK(fused > 0);
    const Optimizer optimizer({.muon = true}, trained_tensors(*model));  // accepts all of them
    CHECK(optimizer.tensors().size() == model->parameters().trainable.size());
  }
}

TEST_CASE("every model learns an answer about a picture through the language loss, with a bounded lm_head") {
  for (const std::string name : {"internvl/release", "llama_vision/instruct"}) {
    for (const bool muon : {false, true}) {
      CAPTURE(name);
      CAPTURE(muon);
      const std::unique_ptr<Model> model = trainable_model(name);
      Image image;
      image.width = image.height = 40;
      image.pixels.assign(40 * 40 * 3, 90);
      const Request request{"<image>\nHow many receipts are there?", {image}};
      const ModelInputs inputs = model->preprocess({&request, 1});
      const std::int64_t length = inputs.input_ids.size(1);
      at::Tensor targets = at::full({1, length}, -100, at::kLong);
      targets[0].narrow(0, length - 3, 3).copy_(at::tensor(std::vector<std::int64_t>{7, 11, 5}));
      Optimizer optimizer({.muon = muon, .weight_decay = 0}, trained_tensors(*model));
      double first = 0, last = 0;
      for (int step = 0; step < 12; ++step) {
        optimizer.zero_gradients();
        const ImageFeatures features = model->encode_images(inputs);
        const std::unique_ptr<KvCache> cache = model->new_cache(1, length);
        const TextOutput output = model->forward(inputs, &features, *cache);
        const at::Tensor loss =
            language_loss(output.last_hidden_state, targets, [&](const at::Tensor& x) { return model->lm_head(x); },
                          {.rows_at_once = 2});
        loss.backward();
        REQUIRE(std::isfinite(clip_gradients(optimizer.tensors(), 1)));
        optimizer.step(0.01);
        (step == 0 ? first : last) = loss.item<double>();
      }
      CHECK(first > 2);
      CHECK(last < first / 2);
    }
  }
}
