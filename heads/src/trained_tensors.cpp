#include <algorithm>
#include <map>

#include "vlmzoo/training.hpp"

namespace vlmzoo {
namespace {

bool is_output_layer(const Trainable& trainable, const ModelInfo& info) {
  return trainable.role == Role::kLanguage && trainable.names.size() == 1 && trainable.value.dim() == 2 &&
         trainable.value.size(0) == info.vocab_size && trainable.value.size(1) == info.text_hidden_size;
}

}  // namespace

std::vector<TrainedTensor> trained_tensors(const Model& model) {
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter& parameter : model.parameters().list) parameters.emplace(parameter.name, &parameter);
  std::vector<TrainedTensor> result;
  for (const Trainable& trainable : model.parameters().trainable) {
    TrainedTensor tensor{trainable.names.front(), trainable.value, {}};
    const bool linear = std::all_of(trainable.names.begin(), trainable.names.end(), [&](const std::string& name) {
      const auto it = parameters.find(name);
      return it != parameters.end() && it->second->linear;
    });
    if (linear && !is_output_layer(trainable, model.info())) {
      for (const std::string& name : trainable.names) tensor.matrices.push_back(parameters.at(name)->shape.front());
    }
    result.push_back(std::move(tensor));
  }
  return result;
}

std::vector<TrainedTensor> trained_tensors(const Head& head) {
  std::vector<TrainedTensor> result;
  for (const NamedTensor& named : head.tensors()) {
    if (!named.trainable) continue;
    TrainedTensor tensor{named.name, named.tensor, {}};
    tensor.value.requires_grad_(true);
    const bool output =
        named.name.starts_with("classification_head.out.") || named.name.starts_with("response_generator.");
    if (named.tensor.dim() == 2 && !output) tensor.matrices = {named.tensor.size(0)};
    result.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace vlmzoo
