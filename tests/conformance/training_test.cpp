#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <set>

#include "subjects.hpp"
#include "tensors.hpp"

using namespace vlmzoo;
using namespace vlmzoo::conformance;

namespace {

std::unique_ptr<Model> trainable(const Subject& subject, bool freeze_vision, bool freeze_language,
                                 bool multimodal = true) {
  ModelConfig config = config_of(subject);
  config.multimodal = multimodal;
  config.freeze_vision_encoder = freeze_vision;
  config.freeze_language_model = freeze_language;
  return create(subject, config, {.trainable = true});
}

std::set<Role> trained_roles(const Model& model) {
  std::set<Role> roles;
  for (const Trainable& tensor : model.parameters().trainable) roles.insert(tensor.role);
  return roles;
}

at::Tensor loss_of(const Model& model, const ModelInputs& inputs) {
  return run(model, inputs, inputs.input_ids.size(1)).logits.sum(at::kDouble);
}

void check_gradients(const Model& model) {
  for (const Trainable& tensor : model.parameters().trainable) {
    const std::string& name = tensor.names.front();
    CHECK_MESSAGE(tensor.value.is_leaf(), name);
    CHECK_MESSAGE((tensor.value.scalar_type() == at::kFloat), name);
    const at::Tensor& gradient = tensor.value.grad();
    REQUIRE_MESSAGE(gradient.defined(), name);
    CHECK_MESSAGE(gradient.isfinite().all().item<bool>(), name);
    CHECK_MESSAGE(gradient.ne(0).any().item<bool>(), name);
  }
}

/// Moves the tensors of a role along their gradient, which is `length` long.
void move(const Model& model, Role role, double distance, double length) {
  const c10::AutoGradMode no_grad(false);
  for (const Trainable& tensor : model.parameters().trainable) {
    if (tensor.role != role) continue;
    at::Tensor value = tensor.value;
    value.add_(tensor.value.grad(), distance / length);
  }
}

double length_of_gradient(const Model& model, Role role) {
  double squares = 0;
  for (const Trainable& tensor : model.parameters().trainable)
    if (tensor.role == role) squares += tensor.value.grad().square().sum(at::kDouble).item<double>();
  return std::sqrt(squares);
}

}  // namespace

TEST_CASE("every parameter that isn't frozen gets a finite gradient, in every step") {
  FOR_EACH_SUBJECT(subject) {
    const auto model = trainable(subject, false, false);
    std::set<std::string> names;
    for (const Trainable& tensor : model->parameters().trainable)
      names.insert(tensor.names.begin(), tensor.names.end());
    for (const Parameter& parameter : model->parameters().list)
      CHECK_MESSAGE(names.contains(parameter.name), parameter.name);
    const ModelInputs inputs = model->preprocess(requests());
    // Twice: what a model computed of its weights while it was made would be gone by the second backward pass.
    for (int i = 0; i < 2; ++i) {
      loss_of(*model, inputs).backward();
      check_gradients(*model);
    }
  }
}

TEST_CASE("gradients are the slope of the loss: nothing on the way is detached") {
  FOR_EACH_SUBJECT(subject) {
    const auto model = trainable(subject, false, false);
    const ModelInputs inputs = model->preprocess(requests());
    loss_of(*model, inputs).backward();
    for (const Role role : kRoles) {
      CAPTURE(to_string(role));
      const double length = length_of_gradient(*model, role), step = 4e-3;
      const c10::AutoGradMode no_grad(false);
      move(*model, role, step, length);
      const double above = loss_of(*model, inputs).item<double>();
      move(*model, role, -2 * step, length);
      const double below = loss_of(*model, inputs).item<double>();
      move(*model, role, step, length);
      CHECK((above - below) / (2 * step) == doctest::Approx(length).epsilon(0.01));
    }
  }
}

TEST_CASE("a batch gives the same while its gradients are recorded: prompts of like length, and very unequal ones") {
  const Request one = requests()[0], none = requests()[1], two = requests()[2];
  Request longer = one;
  longer.text += " And what was paid?";
  FOR_EACH_SUBJECT(subject) {
    const auto model = trainable(subject, false, false);
    for (const std::vector<Request>& batch : {std::vector<Request>{one, longer, one}, {one, none, two}, {none, none}}) {
      const ModelInputs inputs = model->preprocess(batch);
      const TextOutput recorded = run(*model, inputs);
      CHECK(recorded.logits.requires_grad());
      const c10::AutoGradMode no_grad(false);
      CHECK(test::relative_difference(recorded.logits, run(*model, inputs).logits) <= 1e-5);  // another order of sums
    }
  }
}

TEST_CASE("frozen roles get no gradient, and gradients cross them") {
  using enum Role;
  FOR_EACH_SUBJECT(subject) {
    const struct {
      bool freeze_vision, freeze_language;
      std::set<Role> roles;
    } rows[] = {{true, false, {kConnector, kLanguage}}, {false, true, {kVision, kConnector}}, {true, true, {}}};
    for (const auto& row : rows) {
      CAPTURE(row.freeze_vision);
      CAPTURE(row.freeze_language);
      const auto model = trainable(subject, row.freeze_vision, row.freeze_language);
      CHECK((trained_roles(*model) == row.roles));
      const ModelInputs inputs = model->preprocess(requests());
      const auto features = encode(*model, inputs);
      CHECK(features->last_hidden_state.requires_grad() == row.roles.contains(kVision));
      CHECK(features->image_embeds.requires_grad() == row.roles.contains(kConnector));
      const at::Tensor loss = read(*model, inputs, features.get(), inputs.input_ids.size(1)).logits.sum();
      CHECK(loss.requires_grad() == !row.roles.empty());
      if (loss.requires_grad()) loss.backward();
      check_gradients(*model);
    }
  }
}

TEST_CASE("a vision part alone is trained on its features; a model for inference not at all") {
  FOR_EACH_SUBJECT(subject) {
    const auto model = trainable(subject, false, false, /*multimodal=*/false);
    CHECK((trained_roles(*model) == std::set<Role>{Role::kVision}));
    const auto features = encode(*model, model->preprocess(requests(), /*vision_only=*/true));
    features->last_hidden_state.square().sum().backward();
    check_gradients(*model);
    const auto fixed = create(subject);
    CHECK(fixed->parameters().trainable.empty());
    CHECK(!run(*fixed, fixed->preprocess(requests())).logits.requires_grad());
  }
}
