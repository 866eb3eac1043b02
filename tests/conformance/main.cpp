// The conformance suite: what every adapter owes its callers, checked on every plugin of the registry or on those that
// the command line names. A new plugin needs a tiny configuration and no test code.
#define DOCTEST_CONFIG_IMPLEMENT
#include <iostream>

#include "subjects.hpp"

int main(int count, char** arguments) {
  try {
    vlmzoo::conformance::read_arguments(count, arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
  return doctest::Context(count, arguments).run();
}
