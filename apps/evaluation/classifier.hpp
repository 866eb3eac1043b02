#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "session.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/image.hpp"
#include "vlmzoo/model.hpp"

namespace vlmzoo::app {

/// What a picture gives.
struct PictureOutputs {
  std::vector<double> logits;
  std::string answer;
  double latency_ms = 0, answer_ms = 0;  ///< as Prediction's
};

/// A session's model, loaded when it is first used, with its head.
class Classifier {
 public:
  /// No more roles than the head, and with `answers` the answers, need. Errors: those of Session::create() and
  /// make_head().
  Classifier(const Session& session, bool answers);

  const Head& head() const { return head_; }
  const Model& plan() const { return *plan_; }
  RoleSet roles() const { return roles_; }
  bool fresh() const { return fresh_; }  ///< the head is untrained
  bool loaded() const { return model_ != nullptr; }
  double load_seconds() const { return load_seconds_; }
  const GenerationConfig& generation() const { return generation_; }

  /// Before the first run(). The model not fitting into memory is no fault of a picture.
  void load();
  /// `question`: null asks nothing. Nothing when Ctrl-C cut the answer short. Error: kInternal for logits that aren't
  /// finite.
  std::optional<PictureOutputs> run(Image image, const std::string* question) const;

 private:
  PictureOutputs classify(const Request& request) const;
  std::optional<PictureOutputs> ask(const Request& request) const;

  const Session& session_;
  RoleSet roles_;
  std::unique_ptr<Model> plan_, model_;
  bool fresh_ = false;
  Head head_;
  GenerationConfig generation_;
  double load_seconds_ = 0;
};

}  // namespace vlmzoo::app
