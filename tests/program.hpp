#pragma once

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>
#include <vector>

#include "support.hpp"
#include "vlmzoo/files.hpp"

#include <doctest/doctest.h>

/// The built program, run as a user runs it.
namespace vlmzoo::test {

struct Result {
  int code = -1;
  std::string out, err;
};

inline std::string quote(const std::string& word) {
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

inline std::string words(const std::vector<std::string>& arguments) {
  std::string result = quote(VLMZOO_PROGRAM);
  for (const std::string& argument : arguments) result += ' ' + quote(argument);
  return result;
}

/// Runs a command of the shell with stdout and stderr apart.
inline Result shell(const std::string& command) {
  const TemporaryFolder folder;
  const std::string script = fmt::format("{{ {}\n}} 2>{} </dev/null", command, quote((folder / "err").string()));
  std::FILE* pipe = ::popen(script.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Result result;
  char buffer[4096];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) result.out.append(buffer, got);
  const int status = ::pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  result.err = read_file(folder / "err");
  return result;
}

inline Result vlmzoo(const std::vector<std::string>& arguments) { return shell(words(arguments)); }

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace vlmzoo::test
