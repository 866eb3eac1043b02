#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "commands.hpp"
#include "output.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/system.hpp"

namespace vlmzoo::app {
namespace {

struct Verb {
  const char* name;
  const char* summary;
  int (*run)(Arguments arguments);
};

constexpr std::array kVerbs = {
    Verb{"plugins", "list the model plugins, and those that were refused", run_plugins},
    Verb{"info", "describe a model and the memory it needs, before loading it", run_info},
    Verb{"classify", "tell the class of pictures", run_classify},
    Verb{"ask", "answer a question about pictures", run_ask},
    Verb{"eval", "tell how good a model is on labelled pictures", run_eval},
    Verb{"explain", "show what a model sees of pictures, and where its tokens go", run_explain},
    Verb{"init", "write a checkpoint with random weights", run_init},
    Verb{"synth", "draw pictures to train and test on", run_synth},
    Verb{"train", "train a head, or model and head", run_train},
    Verb{"trace", "record one run, to compare it with a reference", run_trace},
    Verb{"compare", "say whether one model may replace another", run_compare},
    Verb{"verify", "go through the checklist before one model replaces another", run_verify},
    Verb{"bench", "measure load time, speed and memory", run_bench},
    Verb{"switch", "make another model of a zoo file the active one", run_switch},
    Verb{"rollback", "return to the model that was active before", run_rollback},
    Verb{"history", "list the switches of a zoo file", run_history},
};

std::string help() {
  std::string result =
      "Usage: vlmzoo VERB [options]\n\nVision-language models from Hugging Face folders, as plugins.\n\nVerbs:\n";
  for (const Verb& verb : kVerbs) result += fmt::format("  {:<10}{}\n", verb.name, verb.summary);
  return result +
         "\n'vlmzoo VERB --help' explains a verb; 'vlmzoo --version' describes this build and processor.\n\nExample:\n"
         "  vlmzoo ask --config configs/internvl.yaml --image cat.jpg --prompt 'What is this?'\n";
}

std::string version() {
#if defined(__clang__)
  const char* compiler = "Clang " __clang_version__;
#else
  const char* compiler = "GCC " __VERSION__;
#endif
  return fmt::format("vlmzoo {}\nLibTorch {}\ncompiler {}\nprocessor {}\n", VLMZOO_VERSION, TORCH_VERSION, compiler,
                     describe_cpu());
}

const Verb& find_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    if (name == verb.name) return verb;
    names.emplace_back(verb.name);
  }
  const std::string suggestion = nearest(name, names);
  throw Error(ErrorCode::kUsage, fmt::format("unknown verb '{}'; {}", name,
                                             suggestion.empty() ? fmt::format("there are {}", fmt::join(names, ", "))
                                                                : fmt::format("did you mean '{}'?", suggestion)));
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) throw Error(ErrorCode::kUsage, "no verb");
  const std::string& first = arguments.front();
  int code = 0;
  if (first == "--help" || first == "-h") {
    print(help());
  } else if (first == "--version") {
    print(version());
  } else {
    code = find_verb(first).run(Arguments(arguments).subspan(1));
  }
  flush_output();
  return code;
}

/// The one place where exceptions end.
int run_guarded(const std::vector<std::string>& arguments) {
  try {
    return run(arguments);
  } catch (...) {
    const Error error = current_error();
    complain(error.what());
    if (error.code() == ErrorCode::kUsage) {
      std::fputs("'vlmzoo --help' lists the verbs, 'vlmzoo VERB --help' a verb's options\n", stderr);
    }
    return exit_code(error.code());
  }
}

}  // namespace
}  // namespace vlmzoo::app

int main(int argc, char** argv) {
  vlmzoo::install_signal_handlers();
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) arguments.emplace_back(argv[i]);
  return vlmzoo::app::run_guarded(arguments);
}
