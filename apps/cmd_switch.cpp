#include <fmt/format.h>

#include "commands.hpp"
#include "output.hpp"
#include "session.hpp"
#include "vlmzoo/error.hpp"
#include "zoo/change_options.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {

int run_switch(Arguments arguments) {
  ChangeOptions change;
  std::vector<std::string> names;
  Options options(
      {"switch", "[options] --zoo FILE NAME",
       "Makes NAME the active model of a zoo file. It is loaded and tried on a fixed picture first: if that\n"
       "fails, the old one stays. Of the file only the value of 'active:' changes; who switched when and why\n"
       "is recorded beside it.",
       "vlmzoo switch llama_vision --zoo zoo.yaml --reason 'better on small print'"});
  options.add()("name", po::value(&names)->value_name("NAME"), "model to make active");
  options.positional("name");
  change.add_to(options);
  if (!options.parse(arguments)) return 0;
  if (names.size() != 1) throw Error(ErrorCode::kUsage, "name one model to switch to");
  change.apply(options);
  const auto record = switch_model(change.zoo, names.front(), change.reason, change.probe());
  change.show(record, names.front());
  return 0;
}

}  // namespace vlmzoo::app
