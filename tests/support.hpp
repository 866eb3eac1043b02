#pragma once

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>

#include "vlmzoo/error.hpp"

namespace vlmzoo::test {

/// An empty folder of a test's own, removed with everything in it at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static std::atomic<int> count{0};
    do {
      path_ = std::filesystem::temp_directory_path() /
              ("vlmzoo_test_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    } while (!std::filesystem::create_directory(path_));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The code of the Error that `function` throws; none when it throws nothing.
template <class Function>
std::optional<ErrorCode> code_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.code();
  }
  return std::nullopt;
}

}  // namespace vlmzoo::test
