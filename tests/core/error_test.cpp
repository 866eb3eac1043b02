#include "vlmzoo/error.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <vector>

#include "../support.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/interrupt.hpp"
#include "vlmzoo/log.hpp"
#include "vlmzoo/progress.hpp"

using namespace vlmzoo;

namespace {

/// Runs `work` in a child process with stderr in a file: its wait status and what it wrote.
std::pair<int, std::string> in_child(const std::function<void()>& work) {
  const test::TemporaryFolder folder;
  const std::string file = (folder / "stderr").string();
  const pid_t child = ::fork();
  if (child == 0) {
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT, 0600);
    ::dup2(descriptor, STDERR_FILENO);
    try {
      work();
    } catch (...) {
      ::_exit(99);
    }
    ::_exit(0);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return {status, read_file(file)};
}

}  // namespace

TEST_CASE("exit codes follow the conventions") {
  CHECK(exit_code(ErrorCode::kUsage) == 2);
  CHECK(exit_code(ErrorCode::kConfig) == 2);
  CHECK(exit_code(ErrorCode::kInterrupted) == 130);
  for (const ErrorCode code : {ErrorCode::kNotFound, ErrorCode::kUnsupported, ErrorCode::kCorrupt, ErrorCode::kMismatch,
                               ErrorCode::kIo, ErrorCode::kMemory, ErrorCode::kPlugin, ErrorCode::kInternal}) {
    CHECK(exit_code(code) == 1);
  }
}

TEST_CASE("nearest finds the candidate a typing error away and nothing farther") {
  const std::vector<std::string> names = {"model_type", "pretrained_path", "precision", "head"};
  CHECK(nearest("modle_type", names) == "model_type");
  CHECK(nearest("Pretrained_Path", names) == "pretrained_path");
  CHECK(nearest("precison", names) == "precision");
  CHECK(nearest("heads", names) == "head");
  CHECK(nearest("temperature", names) == "");
  CHECK(nearest("xy", names) == "");
  CHECK(nearest("", names) == "");
  CHECK(nearest("head", {}) == "");
  CHECK(nearest(std::string(1'000'000, 'a'), names) == "");
}

TEST_CASE("nearest takes a distance of exactly a third of the name, not more") {
  const std::vector<std::string> names = {"abcdef"};
  CHECK(nearest("abcdxy", names) == "abcdef");  // 2 of 6
  CHECK(nearest("abcxyz", names) == "");        // 3 of 6
}

TEST_CASE("log lines go to stderr by level, once where asked, without escape sequences from outside") {
  const auto [status, text] = in_child([] {
    info("loading");
    debug("not shown");
    set_log_level(LogLevel::kDebug);
    debug("shown");
    warn("tensor '\x1b[31mred'");
    warn_once("again");
    warn_once("again");
    set_log_level(LogLevel::kWarning);
    info("not shown either");
    set_log_level(LogLevel::kQuiet);
    warn("quiet");
  });
  CHECK(status == 0);
  CHECK(text == "loading\ndebug: shown\nwarning: tensor '?[31mred'\nwarning: again\n");
}

TEST_CASE("short work shows no progress") {
  const auto [status, text] = in_child([] {
    Progress progress("reading", 100, "B");
    for (int i = 0; i < 100; ++i) progress.advance(1);
  });
  CHECK(status == 0);
  CHECK(text == "");
}

TEST_CASE("the first Ctrl-C sets the flag") {
  const auto [status, text] = in_child([] {
    install_signal_handlers();
    if (interrupted()) ::_exit(1);
    check_interrupt();
    ::raise(SIGINT);
    if (!interrupted()) ::_exit(2);
    try {
      check_interrupt();
    } catch (const Error& error) {
      ::_exit(exit_code(error.code()));
    }
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 130);
}

TEST_CASE("a second signal ends the process, also one of the other kind") {
  for (const int second : {SIGINT, SIGTERM}) {
    const auto [status, text] = in_child([second] {
      install_signal_handlers();
      ::raise(SIGINT);
      ::raise(second);
    });
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == second);
  }
}

TEST_CASE("a closed pipe is a write error and not a death") {
  const auto [status, text] = in_child([] {
    install_signal_handlers();
    int ends[2];
    if (::pipe(ends) != 0) ::_exit(1);
    ::close(ends[0]);
    ::_exit(::write(ends[1], "x", 1) == -1 ? 7 : 1);
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 7);
}
