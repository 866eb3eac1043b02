// The two trained models of configs/demo/ on pictures that they have not seen.
#include <filesystem>
#include <string>

#include "program.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;

const fs::path kDemo = fs::path(VLMZOO_TEST_DATA).parent_path() / "configs" / "demo";

std::uintmax_t size_of_folder(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.file_size();
  return bytes;
}

}  // namespace

TEST_CASE("the demo's models count receipts in fresh pictures, and say how many in words") {
  const TemporaryFolder folder;
  const std::string pictures = (folder / "pictures").string();
  // Training drew from seed 1.
  REQUIRE(vlmzoo({"synth", "receipts", "--count", "900", "--seed", "20261124", "--output", pictures}).code == 0);
  for (const std::string name : {"internvl", "llama_vision"}) {
    CAPTURE(name);
    CHECK(size_of_folder(kDemo / name) <= 4'000'000);
    const Result result = vlmzoo({"eval", "--config", (kDemo / (name + ".yaml")).string(), "--data", pictures,
                                  "--split", "all", "--answers", "--no-cache", "--json", "--threads", "1"});
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    const Json evaluation = parse_json(result.out, "eval");
    CHECK(evaluation.at("n") == 900);
    CHECK(evaluation.at("accuracy").get<double>() >= 0.95);
    CHECK(evaluation.at("accuracy_ci").at(0).get<double>() < evaluation.at("accuracy").get<double>());
    CHECK(evaluation.at("answers").at("accuracy").get<double>() >= 0.95);
  }
}

}  // namespace vlmzoo::test
