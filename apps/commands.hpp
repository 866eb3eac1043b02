#pragma once

#include <span>
#include <string>

/// The verbs of the program. Each takes the arguments behind its name, writes results to stdout and returns an exit
/// code (0 done, 1 failed in part, 130 interrupted); everything else is an Error.
namespace vlmzoo::app {

using Arguments = std::span<const std::string>;

int run_plugins(Arguments arguments);
int run_info(Arguments arguments);
int run_classify(Arguments arguments);
int run_ask(Arguments arguments);
int run_eval(Arguments arguments);
int run_explain(Arguments arguments);
int run_init(Arguments arguments);
int run_synth(Arguments arguments);
int run_train(Arguments arguments);
int run_trace(Arguments arguments);
int run_bench(Arguments arguments);
int run_compare(Arguments arguments);
int run_verify(Arguments arguments);
int run_switch(Arguments arguments);
int run_rollback(Arguments arguments);
int run_history(Arguments arguments);

}  // namespace vlmzoo::app
