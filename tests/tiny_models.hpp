#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "vlmzoo/registry.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::test {

/// The folder of a tiny InternVL checkpoint, made anew by the program. Each test binary has its own: they may run side
/// by side.
inline std::filesystem::path checkpoint(const std::string& name, std::int64_t seed, const std::string& dtype = "fp32",
                                        const std::string& more = "") {
  namespace fs = std::filesystem;
  const fs::path binary = fs::read_symlink("/proc/self/exe").filename();
  const fs::path folder = fs::path(VLMZOO_BUILD) / "tests" / "checkpoints" / binary /
                          (name + "-" + dtype + (more.empty() ? "" : "-sharded"));
  fs::create_directories(folder.parent_path());
  const fs::path tests = VLMZOO_TEST_DATA, data = tests / "data" / "internvl" / name;
  std::ostringstream command;
  command << VLMZOO_PROGRAM << " init --quiet --force --config-json " << data / "config.json"
          << " --preprocessor " << data / "preprocessor_config.json"
          << " --generation " << data / "generation_config.json"
          << " --tokenizer " << tests / "data" / "tokenizer" / "tokenizer.json"
          << " --seed " << seed << " --dtype " << dtype << " " << more << " --output " << folder << " > /dev/null";
  REQUIRE(std::system(command.str().c_str()) == 0);
  return folder;
}

/// Over the plugins of this build.
inline const Registry& registry() {
  static const std::vector<std::filesystem::path> folders = {std::filesystem::path(VLMZOO_BUILD) / "lib" / "vlmzoo" /
                                                             "plugins"};
  static const Registry instance(folders);
  return instance;
}

inline std::unique_ptr<Model> open_model(const std::filesystem::path& folder, Precision precision = Precision::kFp32) {
  ModelConfig config;
  config.pretrained_path = folder.string();
  config.precision = {precision, precision, precision};
  return registry().create_model(config);
}

}  // namespace vlmzoo::test
