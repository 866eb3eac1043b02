#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "commands.hpp"
#include "output.hpp"
#include "pictures.hpp"
#include "session.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

const char* finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kInterrupted:
      return "interrupted";
  }
  return "";
}

OrderedJson document(const std::string& model, const Answer& answer, const GenerationTimes& times) {
  return {{"model", model},
          {"text", answer.text},
          {"ids", answer.ids},
          {"finish_reason", finish_name(answer.finish)},
          {"times",
           {{"vision_s", times.vision},
            {"prefill_s", times.prefill},
            {"decode_s", times.decode},
            {"prompt_tokens", times.prompt_tokens},
            {"decode_steps", times.decode_steps}}}};
}

void log_times(const GenerationTimes& times) {
  debug(fmt::format("vision {:.2f} s, prefill of {} tokens {:.2f} s, decode of {} tokens {:.2f} s ({:.1f} tokens/s)",
                    times.vision, times.prompt_tokens, times.prefill, times.decode_steps, times.decode,
                    times.decode > 0 ? static_cast<double>(times.decode_steps) / times.decode : 0.0));
}

}  // namespace

int run_ask(Arguments arguments) {
  HostOptions host;
  ModelOptions model_options;
  ThreadOption threads;
  GenerationOptions generation;
  std::vector<std::string> images;
  std::string prompt;
  bool json = false;
  Options options(
      {"ask", "[options] --prompt TEXT [--image FILE]…",
       "Answers a question about pictures; the answer appears as it comes. <image> in the text marks where\n"
       "a picture goes; without any mark the pictures come first.",
       "vlmzoo ask --config configs/internvl.yaml --image cat.jpg --prompt 'What is this?'"});
  options.add()("image", po::value(&images)->value_name("FILE"), "picture (repeatable)")(
      "prompt", po::value(&prompt)->value_name("TEXT"), "question")("json", po::bool_switch(&json), "print JSON");
  options.synonym("-p", "prompt");
  generation.add_to(options);
  model_options.add_to(options);
  threads.add_to(options);
  host.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (!options.given("prompt")) throw Error(ErrorCode::kUsage, "--prompt is missing");
  require_utf8("prompt", prompt);
  host.apply();
  threads.apply(options);
  keep_freed_memory();

  const Session session(host, model_options, options, generation.overrides(options));
  Request request{prompt, load_images(images)};
  if (images.empty()) info("no --image: the model is asked without a picture");
  const at::NoGradGuard no_grad;
  const auto model = session.create({});
  const ModelInputs inputs = model->preprocess({&request, 1});

  OnText on_text;
  if (!json) {
    on_text = [](std::size_t, std::string_view piece) {
      print(piece);
      flush_output();
    };
  }
  GenerationTimes times;
  const Answer answer = generate(*model, inputs, session.config().generation, on_text, &times).at(0);
  if (json) {
    print_json(document(session.config().model.pretrained_path, answer, times));
  } else {
    print("\n");
  }
  log_times(times);
  return answer.finish == FinishReason::kInterrupted ? exit_code(ErrorCode::kInterrupted) : 0;
}

}  // namespace vlmzoo::app
