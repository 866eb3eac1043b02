#include "vlmzoo/losses.hpp"

#include <ATen/autocast_mode.h>

#include "training_golden.hpp"

using namespace vlmzoo;
using namespace vlmzoo::test;

namespace {

at::Tensor labels() { return at::tensor(std::vector<std::int64_t>{0, 3, 1, 1, 2, 3}); }

at::Tensor targets() {
  return at::tensor(std::vector<std::int64_t>{-100, -100, 4, 0, 10, -100, 7, 7, -100, 1}).view({2, 5});
}

at::Tensor leaf(std::int64_t stream, at::IntArrayRef shape, double scale) {
  return formula_tensor(stream, shape, scale, 0).requires_grad_(true);
}

struct Language {
  at::Tensor hidden = leaf(2, {2, 5, 6}, 4), weight = leaf(3, {11, 6}, 2);
  std::vector<std::int64_t> rows_seen;

  at::Tensor chunked(const LanguageLoss& loss = {}, double normalizer = 0) {
    const auto lm_head = [this](const at::Tensor& x) {
      rows_seen.push_back(x.size(0));
      return at::linear(x, weight);
    };
    return language_loss(hidden, targets(), lm_head, loss, normalizer);
  }
  at::Tensor whole() const {
    return at::cross_entropy_loss(at::linear(hidden, weight).flatten(0, 1).to(at::kFloat), targets().flatten());
  }
};

}  // namespace

TEST_CASE("the classification loss and its gradient are PyTorch's, with class weights and label smoothing") {
  REQUIRE(training_goldens()["classification"].size() == 4);
  for (const Json& golden : training_goldens()["classification"]) {
    const ClassificationLoss loss{golden["smoothing"], golden["weights"]};
    const at::Tensor logits = leaf(1, {6, 4}, 8);
    const at::Tensor got = classification_loss(logits, labels(), loss);
    got.backward();
    CHECK(got.item<double>() == doctest::Approx(golden["loss"].get<double>()).epsilon(1e-6));
    CHECK(relative_error(logits.grad(), golden["gradient"]) < 1e-6);
  }
}

TEST_CASE("micro-batches of unequal size add up to the gradient of one batch") {
  const ClassificationLoss loss{0.1, {0.5, 1, 2, 4}};
  const at::Tensor whole = leaf(1, {6, 4}, 8), parts = leaf(1, {6, 4}, 8);
  classification_loss(whole, labels(), loss).backward();
  const double weight = label_weight(labels(), loss);
  CHECK(weight == 0.5 + 4 + 1 + 1 + 2 + 4);
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 3}, {4, 2}}) {
    classification_loss(parts.narrow(0, first, count), labels().narrow(0, first, count), loss, weight).backward();
  }
  CHECK(relative_error(parts.grad(), whole.grad()) < 1e-6);
}

TEST_CASE("16-bit logits are summed in fp32") {
  const at::Tensor logits = leaf(1, {6, 4}, 8);
  const at::Tensor got = classification_loss(logits.to(at::kBFloat16), labels());
  CHECK((got.scalar_type() == at::kFloat));
  CHECK(got.item<double>() == classification_loss(logits.to(at::kBFloat16).to(at::kFloat), labels()).item<double>());
}

TEST_CASE("balanced class weights give every class the same weight in all") {
  const std::vector<std::int64_t> pictures = {10, 30, 20};
  const std::vector<double> weights = balanced_class_weights(pictures);
  for (std::size_t k = 0; k < 3; ++k) CHECK(weights[k] * static_cast<double>(pictures[k]) == doctest::Approx(20));
}

TEST_CASE("the language loss in chunks and its gradients are PyTorch's of the whole") {
  for (const Json& golden : training_goldens()["language"]) {
    for (const std::int64_t rows : {1, 2, 3, 6, 128}) {
      CAPTURE(rows);
      Language language;
      const at::Tensor got = language.chunked({.label_smoothing = golden["smoothing"], .rows_at_once = rows});
      CHECK(got.item<double>() == doctest::Approx(golden["loss"].get<double>()).epsilon(1e-6));
      got.backward();
      CHECK(relative_error(language.hidden.grad(), golden["hidden_gradient"]) < 1e-6);
      CHECK(relative_error(language.weight.grad(), golden["weight_gradient"]) < 1e-6);
    }
  }
}

TEST_CASE("lm_head sees only the rows that count, never more than rows_at_once") {
  Language language;
  language.chunked({.rows_at_once = 4}).backward();
  CHECK(target_count(targets()) == 6);
  CHECK(language.rows_seen == std::vector<std::int64_t>{4, 2, 4, 2});  // forward, backward
  language.rows_seen.clear();
  {
    const at::NoGradGuard no_graph;
    CHECK(!language.chunked({.rows_at_once = 4}).requires_grad());
  }
  CHECK(language.rows_seen == std::vector<std::int64_t>{4, 2});
}

TEST_CASE("the language loss takes part in any graph: scaled, added, below other layers, on frozen states") {
  Language chunked, whole;
  at::Tensor scale = at::tensor(3.0F).requires_grad_(true), whole_scale = at::tensor(3.0F).requires_grad_(true);
  (chunked.chunked({.rows_at_once = 2}) * scale + chunked.hidden.square().sum()).backward();
  (whole.whole() * whole_scale + whole.hidden.square().sum()).backward();
  CHECK(relative_error(chunked.hidden.grad(), whole.hidden.grad()) < 1e-6);
  CHECK(relative_error(chunked.weight.grad(), whole.weight.grad()) < 1e-6);
  CHECK(relative_error(scale.grad(), whole_scale.grad()) < 1e-6);

  SUBCASE("below another layer, twice in one graph") {
    const at::Tensor below = leaf(8, {6, 6}, 1), whole_below = leaf(8, {6, 6}, 1);
    const auto twice = [](const at::Tensor& layer, const auto& loss) {
      const at::Tensor states = at::linear(formula_tensor(2, {2, 5, 6}, 4, 0), layer);
      (loss(states) + loss(states * 2)).backward();
    };
    const at::Tensor weight = leaf(3, {11, 6}, 2);
    const auto lm_head = [&](const at::Tensor& x) { return at::linear(x, weight); };
    twice(below,
          [&](const at::Tensor& states) { return language_loss(states, targets(), lm_head, {.rows_at_once = 2}); });
    twice(whole_below, [&](const at::Tensor& states) {
      return at::cross_entropy_loss(lm_head(states).flatten(0, 1), targets().flatten());
    });
    CHECK(relative_error(below.grad(), whole_below.grad()) < 1e-6);
  }
  SUBCASE("on frozen states only lm_head learns") {
    Language frozen;
    frozen.hidden = frozen.hidden.detach();
    frozen.chunked().backward();
    Language trained;
    trained.chunked().backward();
    CHECK(at::equal(frozen.weight.grad(), trained.weight.grad()));
  }
  SUBCASE("with a frozen lm_head only the states do") {
    Language frozen;
    frozen.weight = frozen.weight.detach();
    frozen.chunked().backward();
    Language trained;
    trained.chunked().backward();
    CHECK(at::equal(frozen.hidden.grad(), trained.hidden.grad()));
  }
}

TEST_CASE("micro-batches of texts with unequal numbers of targets add up to the gradient of one batch") {
  Language whole, parts;
  whole.chunked().backward();
  for (const std::int64_t text : {0, 1}) {
    const auto lm_head = [&](const at::Tensor& x) { return at::linear(x, parts.weight); };
    language_loss(parts.hidden[text], targets()[text], lm_head, {}, 6).backward();
  }
  CHECK(relative_error(parts.hidden.grad(), whole.hidden.grad()) < 1e-6);
  CHECK(relative_error(parts.weight.grad(), whole.weight.grad()) < 1e-6);
}

TEST_CASE("without any target that counts the language loss and its gradients are zero") {
  Language language;
  const auto lm_head = [&](const at::Tensor& x) { return at::linear(x, language.weight); };
  const at::Tensor loss = language_loss(language.hidden, at::full({2, 5}, -100, at::kLong), lm_head);
  loss.backward();
  CHECK(loss.item<double>() == 0);
  CHECK(language.hidden.grad().abs().max().item<double>() == 0);
  CHECK(!language.weight.grad().defined());
}

TEST_CASE("backward computes under the autocast of forward and leaves no cast weight behind") {
  const auto gradients = [](auto member, bool autocast) {
    Language language;
    at::autocast::set_autocast_enabled(at::kCPU, autocast);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    const at::Tensor loss = member(language);
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    loss.backward();
    CHECK(!at::autocast::is_autocast_enabled(at::kCPU));
    CHECK(at::autocast::is_autocast_cache_enabled());
    return std::pair{language.hidden.grad(), language.weight.grad()};
  };
  const auto chunked = [](Language& language) { return language.chunked({.rows_at_once = 6}); };
  const auto whole = [](Language& language) { return language.whole(); };
  const auto [hidden, weight] = gradients(chunked, true);
  const auto [whole_hidden, whole_weight] = gradients(whole, true);
  CHECK(relative_error(hidden, whole_hidden) < 1e-6);
  CHECK(relative_error(weight, whole_weight) < 1e-2);                     // sums over rows in bf16, of 6 and of 10 rows
  CHECK(relative_error(gradients(chunked, false).first, hidden) > 1e-4);  // bf16 was really used

  // Weights move after backward: lm_head's next products are with the new ones, and have a graph.
  Language language;
  const auto under_autocast = [](const auto& work) {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const at::Tensor result = work();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    return result;
  };
  const auto product = [&] { return at::linear(language.hidden.detach(), language.weight); };
  under_autocast([&] { return language.chunked(); }).backward();
  {
    const at::NoGradGuard no_graph;
    language.weight.zero_();
  }
  const at::Tensor logits = under_autocast(product);
  at::autocast::clear_cache();
  CHECK(logits.abs().max().item<double>() == 0);
  CHECK(logits.requires_grad());
}

TEST_CASE("losses refuse what doesn't fit and say what") {
  const auto check = [](const auto& work, std::string_view text, ErrorCode code = ErrorCode::kMismatch) {
    const std::optional<Error> error = error_of(work);
    REQUIRE(error.has_value());
    CAPTURE(error->what());
    CHECK((error->code() == code));
    CHECK(contains(*error, text));
  };
  const at::Tensor logits = at::zeros({6, 4}), few = at::zeros({6, 3});
  check([&] { classification_loss(few, labels()); }, "the label 3; expected 0 to 2");
  check([&] { classification_loss(logits, labels() - 1); }, "the label -1");
  check([&] { classification_loss(logits, labels().narrow(0, 0, 5)); }, "logits are [6, 4]; expected [5, K]");
  check([&] { classification_loss(at::zeros({0, 4}), labels().narrow(0, 0, 0)); }, "at least one picture");
  check([&] { classification_loss(logits, labels().to(at::kInt)); }, "expected int64");
  check([&] { classification_loss(logits, labels(), {0, {1, 1, 1}}); }, "3 class weights for 4 classes");
  check([&] { classification_loss(logits, labels(), {0, {1, 1, 1, 0}}); }, "weight is 0", ErrorCode::kConfig);
  check([&] { classification_loss(logits, labels(), {1, {}}); }, "label_smoothing is 1", ErrorCode::kConfig);
  check([&] { classification_loss(logits, labels(), {}, -1); }, "divided by -1", ErrorCode::kConfig);
  check([&] { label_weight(labels(), {0, {1, 1}}); }, "outside 0 to 1");
  check([] { balanced_class_weights(std::vector<std::int64_t>{3, 0}); }, "class 1 has 0 pictures");

  const at::Tensor hidden = at::zeros({2, 5, 6}), weight = at::zeros({9, 6});
  const auto lm_head = [&](const at::Tensor& x) { return at::linear(x, weight); };
  check([&] { language_loss(hidden, targets(), lm_head); }, "the target 10 is outside the vocabulary of 9");
  check([&] { language_loss(hidden, targets() - 1, lm_head); }, "the target -101 is no token");
  check([&] { language_loss(hidden, targets().t(), lm_head); }, "hidden states [2, 5, 6] and targets [5, 2]");
  check([&] { language_loss(hidden, targets().to(at::kFloat), lm_head); }, "aren't int64");
  check([&] { language_loss(hidden, targets(), [](const at::Tensor& x) { return x[0]; }); }, "lm_head made [6]");
  check([&] { language_loss(hidden, targets(), lm_head, {.rows_at_once = 0}); }, "rows_at_once", ErrorCode::kConfig);
}
