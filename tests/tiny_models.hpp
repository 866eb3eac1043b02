#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "vlmzoo/json.hpp"
#include "vlmzoo/registry.hpp"

#undef CHECK  // LibTorch's aborts
#include <doctest/doctest.h>

namespace vlmzoo::test {

/// Makes the checkpoint `folder` anew with the program, from the JSON files and the tokenizer in `data`; without a
/// tokenizer of its own it gets the tiny InternVL's. `more` are further options of `init`.
inline void make_checkpoint(const std::filesystem::path& data, const std::filesystem::path& folder, std::int64_t seed,
                            const std::string& dtype = "fp32", const std::string& more = "") {
  namespace fs = std::filesystem;
  fs::create_directories(folder.parent_path());
  const bool own = fs::exists(data / "tokenizer.json");
  const fs::path tokenizer = (own ? data : fs::path(VLMZOO_TEST_DATA) / "data" / "tokenizer") / "tokenizer.json";
  std::ostringstream command;
  command << VLMZOO_PROGRAM << " init --quiet --force --config-json " << data / "config.json";
  const auto optional = [&](const char* option, const char* name) {
    if (fs::exists(data / name)) command << " " << option << " " << data / name;
  };
  optional("--preprocessor", "preprocessor_config.json");
  optional("--generation", "generation_config.json");
  command << " --tokenizer " << tokenizer << " --seed " << seed << " --dtype " << dtype << " " << more << " --output "
          << folder << " > /dev/null";
  REQUIRE(std::system(command.str().c_str()) == 0);
}

/// The folder of a tiny checkpoint, made anew by the program from tests/data/<name>, as in "internvl/release". Each
/// test binary has its own: they may run side by side.
inline std::filesystem::path checkpoint(const std::string& name, std::int64_t seed, const std::string& dtype = "fp32",
                                        const std::string& more = "") {
  namespace fs = std::filesystem;
  const fs::path binary = fs::read_symlink("/proc/self/exe").filename();
  const fs::path folder = fs::path(VLMZOO_BUILD) / "tests" / "checkpoints" / binary /
                          (name + "-" + dtype + (more.empty() ? "" : "-sharded"));
  make_checkpoint(fs::path(VLMZOO_TEST_DATA) / "data" / name, folder, seed, dtype, more);
  return folder;
}

/// Over the plugins of this build.
inline const Registry& registry() {
  static const std::vector<std::filesystem::path> folders = {std::filesystem::path(VLMZOO_BUILD) / "lib" / "vlmzoo" /
                                                             "plugins"};
  static const Registry instance(folders);
  return instance;
}

/// The adapter is the one for config.json's model_type, unless `config` names one.
inline std::unique_ptr<Model> open_model(const ModelConfig& config, const CreateOptions& options = {}) {
  const Json json = read_json(std::filesystem::path(config.pretrained_path) / "config.json");
  return registry().create_model(
      config, options, config.model_type.empty() ? json.at("model_type").get<std::string>() : config.model_type);
}

inline std::unique_ptr<Model> open_model(const std::filesystem::path& folder, Precision precision = Precision::kFp32) {
  ModelConfig config;
  config.pretrained_path = folder.string();
  config.precision = {precision, precision, precision};
  return open_model(config);
}

}  // namespace vlmzoo::test
