#include "subjects.hpp"
#include "vlmzoo/generation.hpp"
#include "vlmzoo/system.hpp"

using namespace vlmzoo;
using namespace vlmzoo::conformance;

namespace {

/// A life of a model: made, used, thrown away. Bytes of its weights.
std::uint64_t live(const Subject& subject) {
  const auto model = create(subject);
  GenerationConfig config;
  config.max_new_tokens = 2;
  config.temperature = 0;
  generate(*model, model->preprocess({requests().data(), 1}), config);
  return model->parameters().bytes(config_of(subject).precision);
}

std::int64_t resident() {
  release_freed_memory();
  return static_cast<std::int64_t>(resident_memory());
}

}  // namespace

TEST_CASE("a model that is thrown away gives its memory back") {
  FOR_EACH_SUBJECT(subject) {
    for (int i = 0; i < 2; ++i) live(subject);  // what the libraries keep for good
    const std::int64_t before = resident();
    std::uint64_t bytes = 0;
    for (int i = 0; i < 8; ++i) bytes += live(subject);
    constexpr std::int64_t kPages = 256 * 1024;  // resident memory moves by a few pages in any case
    CHECK(resident() - before <= static_cast<std::int64_t>(bytes) / 20 + kPages);
  }
}
