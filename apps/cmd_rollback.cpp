#include <fmt/format.h>

#include <optional>

#include "commands.hpp"
#include "output.hpp"
#include "session.hpp"
#include "vlmzoo/error.hpp"
#include "zoo/change_options.hpp"
#include "zoo/zoo.hpp"

namespace vlmzoo::app {

int run_rollback(Arguments arguments) {
  ChangeOptions change;
  std::int64_t to = 0;
  Options options({"rollback", "[options] --zoo FILE",
                   "Returns to the model that was active before the last switch; again, to the one before that. It is\n"
                   "tried first, as by 'switch'. 'vlmzoo history' shows the numbers that --to takes.",
                   "vlmzoo rollback --zoo zoo.yaml --reason 'answers got slower'"});
  options.add()("to", po::value(&to)->value_name("N"), "to the model active after record N; 0: before the first one");
  change.add_to(options);
  if (!options.parse(arguments)) return 0;
  change.apply(options);
  const auto record =
      roll_back(change.zoo, options.given("to") ? std::optional(to) : std::nullopt, change.reason, change.probe());
  change.show(record, record ? record->to : read_zoo(change.zoo).active);
  return 0;
}

}  // namespace vlmzoo::app
