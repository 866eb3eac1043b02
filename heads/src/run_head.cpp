#include "vlmzoo/run_head.hpp"

#include <memory>
#include <vector>

#include "vlmzoo/weights.hpp"

namespace vlmzoo {
namespace {

/// Those given, else the model's, which `made` holds.
const ImageFeatures& features_of(const Model& model, const ModelInputs& inputs, const ImageFeatures* given,
                                 ImageFeatures& made) {
  if (given != nullptr) return *given;
  made = model.encode_images(inputs);
  return made;
}

/// [I, H]: the state from which the model would say the first token of its answer.
at::Tensor answer_positions(const Model& model, const ModelInputs& inputs, const ImageFeatures& features) {
  const auto cache = model.new_cache(inputs.input_ids.size(0), inputs.input_ids.size(1));
  return last_positions(inputs, model.forward(inputs, &features, *cache)).to(at::kFloat);
}

HeadOutput with_multimodal(HeadOutput output) {
  output.multimodal_embeddings = output.embeddings;
  return output;
}

}  // namespace

RoleSet head_roles(const ModelConfig& config) {
  const ClassifierConfig classifier =
      config.head.empty() ? config.classifier : read_head_config(config.head).classifier;
  return classifier.features == "multimodal" ? RoleSet::all() : RoleSet::vision_only();
}

ModelInputs head_inputs(const Model& model, const Head& head, std::span<const Image> pictures) {
  std::vector<Request> requests;
  for (const Image& picture : pictures) {
    requests.push_back({head.needs_language() ? head.config().classifier.prompt : "", {picture}});
  }
  return model.preprocess(requests, /*vision_only=*/!head.needs_language());
}

at::Tensor pooled_features(const Model& model, const Head& head, const ModelInputs& inputs,
                           const ImageFeatures* features) {
  ImageFeatures made;
  const ImageFeatures& seen = features_of(model, inputs, features, made);
  return head.needs_language() ? answer_positions(model, inputs, seen) : head.pool(seen);
}

HeadOutput run_head(const Model& model, const Head& head, const ModelInputs& inputs, const ImageFeatures* features) {
  ImageFeatures made;
  const ImageFeatures& seen = features_of(model, inputs, features, made);
  if (!head.needs_language()) return head.forward(seen);
  return with_multimodal(head.forward_pooled(answer_positions(model, inputs, seen)));
}

HeadOutput run_head(const Model& model, const Head& head, const Request& request) {
  return run_head(model, head, head_inputs(model, head, request.images));
}

HeadOutput train_head(const Model& model, Head& head, const ModelInputs& inputs, const ImageFeatures* features) {
  ImageFeatures made;
  const ImageFeatures& seen = features_of(model, inputs, features, made);
  if (!head.needs_language()) return head.forward_training(seen);
  return with_multimodal(head.forward_training(answer_positions(model, inputs, seen)));
}

}  // namespace vlmzoo
