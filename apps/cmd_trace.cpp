#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <filesystem>
#include <map>

#include "commands.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "session.hpp"
#include "trace.hpp"
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

}  // namespace

int run_trace(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  std::vector<std::string> images;
  std::string prompt, output;
  std::int64_t max_new_tokens = 0;
  Options options(
      {"trace", "[options] --prompt TEXT [--image FILE]… --output FILE",
       "Records one run for comparison with a reference, as safetensors: pixel_values, input_ids,\n"
       "vision_last_hidden_state, image_embeds, last_hidden_state, logits and generated_ids (greedy).",
       "vlmzoo trace --config configs/internvl.yaml --image cat.jpg -p 'What is this?' --output run.safetensors"});
  options.add()("image", po::value(&images)->value_name("FILE"), "picture (repeatable)")(
      "prompt", po::value(&prompt)->value_name("TEXT"), "question; <image> marks where a picture goes")(
      "max-new-tokens", po::value(&max_new_tokens)->value_name("N"), "longest answer; default: the configuration's")(
      "output", po::value(&output)->value_name("FILE"), "safetensors file to write");
  options.synonym("-p", "prompt");
  options.synonym("--max-tokens", "max-new-tokens");
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (!options.given("prompt")) throw Error(ErrorCode::kUsage, "--prompt is missing");
  if (output.empty()) throw Error(ErrorCode::kUsage, "--output is missing");
  require_utf8("prompt", prompt);
  host.apply();
  threads.apply(options);

  std::vector<std::string> overrides;
  if (options.given("max-new-tokens")) overrides.push_back(fmt::format("generation.max_new_tokens={}", max_new_tokens));
  const Session session(host, model_options, options, overrides);
  // A place that can't be written to has to be told before the work, not after it.
  { const AtomicFile probe(output); }
  const Request request{prompt, load_images(images)};
  const at::NoGradGuard no_grad;
  const auto model = session.create({});
  const NamedTensors tensors = record_run(*model, request, session.config().generation.max_new_tokens);
  write_tensors(output, tensors,
                {{"model_type", model->info().model_type},
                 {"prompt", prompt},
                 {"precision", describe(session.precision())},
                 {"config", session.config().resolved},
                 {"version", VLMZOO_VERSION}});
  for (const auto& [name, tensor] : tensors) {
    print(fmt::format("{:<26}{}\n", name, to_string(std::span<const std::int64_t>(tensor.sizes().vec()))));
  }
  return 0;
}

}  // namespace vlmzoo::app
