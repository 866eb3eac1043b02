#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "commands.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "session.hpp"
#include "table.hpp"
#include "trace.hpp"
#include "trace_comparison.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo::app {
namespace {

void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back({name, tensor.is_floating_point() ? DType::kF32 : DType::kI64, tensor.sizes().vec(), 0, 0});
  }
  SafetensorsWriter writer(path, std::move(entries), metadata);
  for (const auto& [name, tensor] : tensors) {
    writer.write({static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
  writer.commit();
}

struct TraceOptions {
  std::vector<std::string> images;
  std::string prompt, output, compare, recorded;
  std::int64_t max_new_tokens = 0;
  double tolerance = 1e-4;
  bool json = false;

  void add_to(Options& options);
  void check(const Options& options) const;
};

void TraceOptions::add_to(Options& options) {
  options.add()("image", po::value(&images)->value_name("FILE"), "picture (repeatable)")(
      "prompt", po::value(&prompt)->value_name("TEXT"), "question; <image> marks where a picture goes")(
      "max-new-tokens", po::value(&max_new_tokens)->value_name("N"), "longest answer; default: the configuration's")(
      "output", po::value(&output)->value_name("FILE"), "safetensors file to write")(
      "compare", po::value(&compare)->value_name("FILE"),
      "reference: a trace to compare the run with; what it holds has to be within the tolerance, else the code is 3")(
      "recorded", po::value(&recorded)->value_name("FILE"), "with --compare: a trace instead of a new run")(
      "tolerance", po::value(&tolerance)->value_name("T"),
      "with --compare: largest difference over max(1, largest value of the reference); default 1e-4. Integers have to "
      "be equal")("json", po::bool_switch(&json), "print JSON");
  options.synonym("-p", "prompt");
  options.synonym("--max-tokens", "max-new-tokens");
  options.positional("recorded");
}

void TraceOptions::check(const Options& options) const {
  if (compare.empty()) {
    for (const char* name : {"recorded", "tolerance"}) {
      if (options.given(name)) throw Error(ErrorCode::kUsage, fmt::format("--{} needs --compare FILE", name));
    }
  }
  if (!std::isfinite(tolerance) || tolerance < 0) {
    throw Error(ErrorCode::kUsage, fmt::format("--tolerance is {}; expected 0 or more", tolerance));
  }
  if (!recorded.empty()) {
    for (const char* name : {"prompt", "image", "output"}) {
      if (!options.given(name)) continue;
      throw Error(ErrorCode::kUsage, fmt::format("--{} is for a new run; {} is one already", name, recorded));
    }
    return;
  }
  if (!options.given("prompt")) throw Error(ErrorCode::kUsage, "--prompt is missing");
  if (output.empty() && compare.empty()) throw Error(ErrorCode::kUsage, "--output or --compare is missing");
  require_utf8("prompt", prompt);
}

NamedTensors record(const TraceOptions& trace, const Session& session) {
  // A place that can't be written to has to be told before the work, not after it.
  if (!trace.output.empty()) const AtomicFile probe(trace.output);
  const Request request{trace.prompt, load_images(trace.images)};
  const auto model = session.create({});
  NamedTensors tensors = record_run(*model, request, session.config().generation.max_new_tokens);
  if (!trace.output.empty()) {
    write_tensors(trace.output, tensors,
                  {{"model_type", model->info().model_type},
                   {"prompt", trace.prompt},
                   {"precision", describe(session.precision())},
                   {"config", session.config().resolved},
                   {"version", VLMZOO_VERSION}});
  }
  return tensors;
}

void print_shapes(const NamedTensors& tensors, bool json) {
  Table table({"stage", "shape"});
  OrderedJson shapes = OrderedJson::object();
  for (const auto& [name, tensor] : tensors) {
    const std::vector<std::int64_t> shape = tensor.sizes().vec();
    table.add({name, to_string(shape)});
    shapes[name] = shape;
  }
  if (json) {
    print_json({{"shapes", std::move(shapes)}});
  } else {
    print(table.text());
  }
}

/// The exit code: 3 when a stage of the reference isn't within the tolerance.
int report(const TraceComparison& comparison, const TraceOptions& trace) {
  if (trace.json) {
    OrderedJson document = {{"reference", trace.compare}};
    if (!trace.recorded.empty()) document["recorded"] = trace.recorded;
    document.update(to_json(comparison));
    print_json(document);
  } else {
    print(to_table(comparison));
  }
  return comparison.first_outside() == nullptr ? 0 : 3;
}

}  // namespace

int run_trace(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  TraceOptions trace;
  Options options(
      {"trace",
       "[options] --prompt TEXT [--image FILE]… [--output FILE] [--compare FILE]\n       vlmzoo trace --compare FILE "
       "FILE",
       "Records one run as safetensors: pixel_values, input_ids, vision_last_hidden_state, image_embeds,\n"
       "last_hidden_state, logits and generated_ids (greedy). Compares it, or a second file, with an earlier one.",
       "vlmzoo trace --config configs/internvl.yaml --image cat.jpg -p 'What is this?' --output run.safetensors"});
  trace.add_to(options);
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  trace.check(options);
  host.apply();
  threads.apply(options);

  std::optional<SafetensorsFile> reference;
  if (!trace.compare.empty()) reference.emplace(trace.compare);
  if (!trace.recorded.empty()) {
    return report(compare_traces(read_trace(SafetensorsFile(trace.recorded)), *reference, trace.tolerance), trace);
  }
  std::vector<std::string> overrides;
  if (options.given("max-new-tokens")) {
    overrides.push_back(fmt::format("generation.max_new_tokens={}", trace.max_new_tokens));
  }
  const Session session(host, model_options, options, overrides);
  const at::NoGradGuard no_grad;
  const NamedTensors tensors = record(trace, session);
  if (reference) return report(compare_traces(tensors, *reference, trace.tolerance), trace);
  print_shapes(tensors, trace.json);
  return 0;
}

}  // namespace vlmzoo::app
