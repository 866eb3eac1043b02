#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "clock.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "session.hpp"
#include "table.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/heads.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/progress.hpp"
#include "vlmzoo/run_head.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

struct Classified {
  std::filesystem::path image;
  std::vector<float> probabilities;
  double milliseconds = 0;
  bool unsure = false;

  std::size_t class_id() const {
    return static_cast<std::size_t>(std::max_element(probabilities.begin(), probabilities.end()) -
                                    probabilities.begin());
  }
};

struct Outcome {
  std::vector<Classified> results;
  bool failed = false, interrupted = false;
};

Classified classify(const Model& model, const Head& head, const std::filesystem::path& file) {
  const auto start = Clock::now();
  Request request;
  request.images.push_back(load_image(file));
  const HeadOutput output = run_head(model, head, request);
  const at::Tensor probability = probabilities(output.logits, head.config().temperature).cpu().contiguous();
  if (!probability.isfinite().all().item<bool>()) {
    throw Error(ErrorCode::kInternal,
                fmt::format("{}: the class probabilities are not finite; the weights may be damaged, or a "
                            "precision too narrow for them (try --precision fp32)",
                            file.string()));
  }
  Classified result{file, {}, 0, false};
  result.probabilities.assign(probability.const_data_ptr<float>(),
                              probability.const_data_ptr<float>() + probability.numel());
  result.milliseconds = 1e3 * seconds_since(start);
  return result;
}

Outcome classify_all(const Model& model, const Head& head, const std::vector<std::filesystem::path>& files,
                     double unsure_below) {
  Outcome outcome;
  Progress progress("classifying", files.size(), "pictures");
  for (const std::filesystem::path& file : files) {
    if (interrupted()) {
      outcome.interrupted = true;
      break;
    }
    try {
      Classified result = classify(model, head, file);
      result.unsure = result.probabilities[result.class_id()] < unsure_below;
      outcome.results.push_back(std::move(result));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInterrupted) {
        outcome.interrupted = true;
        break;
      }
      if (!is_fault_of_picture(error.code())) throw;
      complain(error.what());
      outcome.failed = true;
    }
    progress.advance(1);
  }
  return outcome;
}

OrderedJson make_document(const std::string& model, const std::vector<std::string>& class_names,
                          const std::vector<Classified>& results) {
  OrderedJson rows = OrderedJson::array();
  for (const Classified& result : results) {
    OrderedJson by_name = OrderedJson::object();
    for (std::size_t i = 0; i < class_names.size(); ++i) by_name[class_names[i]] = result.probabilities[i];
    rows.push_back({{"sample_id", result.image.filename().string()},
                    {"image", result.image.string()},
                    {"label", class_names[result.class_id()]},
                    {"class_id", result.class_id()},
                    {"probability", result.probabilities[result.class_id()]},
                    {"probabilities", std::move(by_name)},
                    {"unsure", result.unsure},
                    {"latency_ms", result.milliseconds}});
  }
  return {{"model", model}, {"results", std::move(rows)}};
}

std::string to_table(const std::vector<std::string>& class_names, const std::vector<Classified>& results) {
  Table table({"image", "class", ">probability", ">ms"});
  for (const Classified& result : results) {
    table.add({result.image.string(), result.unsure ? "unsure" : class_names[result.class_id()],
               fmt::format("{:.4f}", result.probabilities[result.class_id()]),
               fmt::format("{:.0f}", result.milliseconds)});
  }
  return table.text();
}

Head open_head(const Model& model, const ModelConfig& config) {
  bool fresh = false;
  Head head = make_head(model.info(), config, &fresh);
  if (fresh) {
    warn(
        "the classification head is freshly initialised (untrained): its classes mean nothing; name a trained one in "
        "model.head");
  }
  return head;
}

}  // namespace

int run_classify(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  std::vector<std::string> images;
  std::string output_path;
  double unsure_below = 0;
  bool json = false;
  Options options({"classify", "[options] FILE|FOLDER…",
                   "Tells the class of pictures and its probability. Of a folder the pictures directly in it count.",
                   "vlmzoo classify --config configs/internvl.yaml pictures/ --json"});
  options.add()("image", po::value(&images)->value_name("FILE|FOLDER"), "picture or folder (repeatable)")(
      "output", po::value(&output_path)->value_name("FILE"),
      "write the JSON to this file too, and the configuration beside it")(
      "unsure-below", po::value(&unsure_below)->value_name("P"),
      "show classes less probable than P as \"unsure\"; 0, the default: none")("json", po::bool_switch(&json),
                                                                               "print JSON");
  options.positional("image");
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (!(unsure_below >= 0 && unsure_below <= 1)) {
    throw Error(ErrorCode::kUsage, fmt::format("--unsure-below is {}; expected 0 to 1", unsure_below));
  }
  if (images.empty()) throw Error(ErrorCode::kUsage, "no picture is named");
  host.apply();
  threads.apply(options);
  keep_freed_memory();

  const std::vector<std::filesystem::path> files = collect_pictures(images);
  const Session session(host, model_options, options);
  // Opened now: a place that can't be written to has to be told before the work, not after it.
  std::optional<AtomicFile> output;
  if (!output_path.empty()) output.emplace(output_path);

  const at::NoGradGuard no_grad;
  const auto model = session.create({.roles = head_roles(session.config().model)});
  const Head head = open_head(*model, session.config().model);
  const Outcome outcome = classify_all(*model, head, files, unsure_below);

  const std::vector<std::string>& class_names = head.config().class_names;
  const OrderedJson document = make_document(session.config().model.pretrained_path, class_names, outcome.results);
  if (output) {
    output->write(to_text(document));
    output->commit();
    write_file(std::filesystem::path(output_path).replace_extension(".config.yaml"), session.config().resolved);
  }
  if (json) {
    print_json(document);
  } else if (!outcome.results.empty()) {
    print(to_table(class_names, outcome.results));
  }
  if (outcome.interrupted) return exit_code(ErrorCode::kInterrupted);
  return outcome.failed ? 1 : 0;
}

}  // namespace vlmzoo::app
