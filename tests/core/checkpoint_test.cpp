#include "vlmzoo/checkpoint.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>

#include "../support.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/json.hpp"

using namespace vlmzoo;
namespace fs = std::filesystem;

namespace {

/// A file with U8 tensors of the given content.
void write_tensors(const fs::path& path, const std::map<std::string, std::string>& tensors) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, content] : tensors) {
    entries.push_back({.name = name, .dtype = DType::kU8, .shape = {static_cast<std::int64_t>(content.size())}});
  }
  SafetensorsWriter writer(path, entries);
  for (const auto& [name, content] : tensors) writer.write(std::as_bytes(std::span(content)));
  writer.commit();
}

void write_index(const fs::path& folder, const Json& weight_map) {
  write_file(folder / "model.safetensors.index.json",
             Json{{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}.dump());
}

std::string read_all(const Checkpoint& checkpoint, const std::string& name) {
  std::string bytes(checkpoint.find(name)->bytes(), '\0');
  checkpoint.read(name, 0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

template <typename Work>
std::string message_of(ErrorCode code, const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    CHECK_MESSAGE(error.code() == code, error.what());
    return error.what();
  }
  FAIL("no error");
  return "";
}

std::string refused(const fs::path& folder, ErrorCode code) {
  return message_of(code, [&] { Checkpoint checkpoint(folder); });
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Sets or unsets a variable until the end of a test.
class Environment {
 public:
  Environment(const char* name, const std::optional<std::string>& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Environment() { set(before_); }

 private:
  void set(const std::optional<std::string>& value) { value ? ::setenv(name_, value->c_str(), 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> before_;
};

/// A hub cache in a folder of its own, which the environment names.
struct HubCache {
  test::TemporaryFolder folder;
  Environment cache{"HF_HUB_CACHE", folder.path().string()};
  fs::path model = folder / "models--org--name";

  fs::path add(const std::string& commit) {
    fs::create_directories(model / "snapshots" / commit);
    return model / "snapshots" / commit;
  }
  void refer(const std::string& commit) {
    fs::create_directories(model / "refs");
    write_file(model / "refs" / "main", commit);
  }
};

}  // namespace

TEST_CASE("a single file is the checkpoint, and other safetensors files are ignored") {
  const test::TemporaryFolder folder;
  write_tensors(folder / "model.safetensors", {{"b", "BB"}, {"a", "A"}});
  write_tensors(folder / "consolidated.safetensors", {{"c", "C"}});
  write_index(folder.path(), {{"c", "consolidated.safetensors"}});
  const Checkpoint checkpoint(folder.path());
  CHECK(checkpoint.names() == std::vector<std::string>{"a", "b"});
  CHECK(checkpoint.bytes() == 3);
  CHECK(checkpoint.find("c") == nullptr);
  CHECK(read_all(checkpoint, "b") == "BB");
  CHECK(checkpoint.folder() == folder.path());
  message_of(ErrorCode::kNotFound, [&] { checkpoint.read("c", 0, {}); });
}

TEST_CASE("an index puts shards together, and what only a shard holds is ignored") {
  const test::TemporaryFolder folder;
  write_tensors(folder / "one.safetensors", {{"a", "A"}, {"extra", "?"}});
  write_tensors(folder / "two.safetensors", {{"b", "BB"}, {"c", "CCC"}});
  write_tensors(folder / "three.safetensors", {{"d", "D"}});
  write_index(
      folder.path(),
      {{"a", "one.safetensors"}, {"b", "two.safetensors"}, {"c", "two.safetensors"}, {"d", "three.safetensors"}});
  Checkpoint first(folder.path());
  const Checkpoint checkpoint(std::move(first));
  CHECK(checkpoint.files().size() == 3);
  CHECK(checkpoint.names() == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(checkpoint.bytes() == 7);
  CHECK(checkpoint.find("extra") == nullptr);
  CHECK(read_all(checkpoint, "a") == "A");
  CHECK(read_all(checkpoint, "b") == "BB");
  CHECK(read_all(checkpoint, "c") == "CCC");
  CHECK(read_all(checkpoint, "d") == "D");
}

TEST_CASE("a snapshot made of links to blobs elsewhere is a checkpoint") {
  const test::TemporaryFolder folder;
  fs::create_directories(folder / "blobs");
  fs::create_directories(folder / "snapshots/0a");
  write_tensors(folder / "blobs/hash", {{"a", "A"}});
  write_file(folder / "blobs/index", R"({"weight_map": {"a": "model-1.safetensors"}})");
  fs::create_symlink("../../blobs/hash", folder / "snapshots/0a/model-1.safetensors");
  fs::create_symlink("../../blobs/index", folder / "snapshots/0a/model.safetensors.index.json");
  CHECK(read_all(Checkpoint(folder / "snapshots/0a"), "a") == "A");
}

TEST_CASE("a folder without weights says what is there instead") {
  const test::TemporaryFolder folder;
  CHECK(contains(refused(folder / "absent", ErrorCode::kNotFound), "Model path does not exist"));
  CHECK(contains(refused(folder.path(), ErrorCode::kNotFound),
                 "neither model.safetensors nor model.safetensors.index.json"));
  write_file(folder / "pytorch_model.bin", "");
  CHECK(contains(refused(folder.path(), ErrorCode::kNotFound), "pytorch_model.bin"));
  fs::create_symlink("../../blobs/gone", folder / "model.safetensors");
  CHECK(contains(refused(folder.path(), ErrorCode::kNotFound), "../../blobs/gone"));
}

TEST_CASE("an index that names files outside the folder is refused, whether they exist or not") {
  const test::TemporaryFolder folder;
  fs::create_directory(folder / "model");
  fs::create_directory(folder / "model" / "sub");
  write_tensors(folder / "outside.safetensors", {{"a", "A"}});
  write_tensors(folder / "model" / "sub" / "inside.safetensors", {{"a", "A"}});
  for (const std::string& file : {std::string("../outside.safetensors"), (folder / "outside.safetensors").string(),
                                  std::string("sub/inside.safetensors"), std::string(".."), std::string("."),
                                  std::string(), std::string("a\0b", 3)}) {
    CAPTURE(file);
    write_index(folder / "model", {{"a", file}});
    CHECK(contains(refused(folder / "model", ErrorCode::kCorrupt), "tensor 'a'"));
  }
}

TEST_CASE("shards that are missing or lack tensors are counted and named") {
  const test::TemporaryFolder folder;
  Json weight_map;
  for (int i = 0; i < 30; ++i) weight_map["t" + std::to_string(i)] = "shard-" + std::to_string(i);
  write_index(folder.path(), weight_map);
  write_tensors(folder / "shard-0", {{"other", "x"}});
  std::string message = refused(folder.path(), ErrorCode::kCorrupt);
  CHECK(contains(message, "29 of 30 files are missing: 'shard-1'"));
  CHECK(contains(message, "and 9 more"));

  write_index(folder.path(), {{"t0", "shard-0"}, {"other", "shard-0"}});
  CHECK(contains(refused(folder.path(), ErrorCode::kCorrupt), "'shard-0' lacks 1 of its 2 tensors: 't0'"));
}

TEST_CASE("an index that isn't one is refused") {
  const test::TemporaryFolder folder;
  for (const char* text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 3}})",
                           R"({"weight_map": {"a": "f", "a": "g"}})"}) {
    CAPTURE(text);
    write_file(folder / "model.safetensors.index.json", text);
    refused(folder.path(), ErrorCode::kCorrupt);
  }
}

TEST_CASE("a folder is taken as it is, before any cached model of that name") {
  HubCache hub;
  hub.add("0a");
  const test::TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::create_directories(folder / "org/name");
  fs::current_path(folder.path());
  const fs::path found = resolve_pretrained_path("org/name");
  fs::current_path(before);
  CHECK(found == "org/name");
  CHECK(resolve_pretrained_path(folder.path().string()) == folder.path());
}

TEST_CASE("org/name is the snapshot that refs/main names, else the only one") {
  HubCache hub;
  const fs::path first = hub.add("0a");
  CHECK(resolve_pretrained_path("org/name") == first);
  const fs::path second = hub.add("0b");
  const std::string message = message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path("org/name"); });
  CHECK(contains(message, first.string()));
  CHECK(contains(message, second.string()));
  hub.refer("0b\n");
  CHECK(resolve_pretrained_path("org/name") == second);
  hub.refer("0c");
  message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path("org/name"); });
  for (const char* outside : {"..", "../../..", "/", ""}) {
    hub.refer(outside);
    message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path("org/name"); });
  }
  fs::remove_all(hub.model / "snapshots");
  message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path("org/name"); });
}

TEST_CASE("the hub cache is found as huggingface_hub finds it") {
  const test::TemporaryFolder home;
  const auto add = [&](const std::string& cache) {
    const fs::path snapshot = home / cache / "models--org--name/snapshots/0a";
    fs::create_directories(snapshot);
    return snapshot;
  };
  const fs::path in_home = add(".cache/huggingface/hub"), in_xdg = add("xdg/huggingface/hub"),
                 in_hf_home = add("hf/hub"), in_hub_cache = add("hub_cache");
  const Environment no_hub_cache("HF_HUB_CACHE", std::nullopt), no_hf_home("HF_HOME", std::nullopt),
      no_xdg("XDG_CACHE_HOME", std::nullopt);
  const Environment own_home("HOME", home.path().string());
  CHECK(resolve_pretrained_path("org/name") == in_home);
  const Environment xdg("XDG_CACHE_HOME", (home / "xdg").string());
  CHECK(resolve_pretrained_path("org/name") == in_xdg);
  const Environment hf_home("HF_HOME", "~/hf");
  CHECK(resolve_pretrained_path("org/name") == in_hf_home);
  const Environment hub_cache("HF_HUB_CACHE", (home / "hub_cache").string());
  CHECK(resolve_pretrained_path("org/name") == in_hub_cache);
  CHECK(resolve_pretrained_path("~/hub_cache") == home / "hub_cache");
}

TEST_CASE("a path that doesn't exist is told with everything that was looked for") {
  const HubCache hub;
  std::string message = message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path("org/absent"); });
  CHECK(message.starts_with("Model path does not exist: org/absent"));
  CHECK(contains(message, (fs::current_path() / "org/absent").string()));
  CHECK(contains(message, (hub.folder / "models--org--absent").string()));

  for (const char* path : {"/no/such/folder", "absent", "../absent", "a/../b", "./absent", "a/b/c"}) {
    message = message_of(ErrorCode::kNotFound, [&] { resolve_pretrained_path(path); });
    CHECK(message.starts_with(std::string("Model path does not exist: ") + path));
    CHECK_FALSE(contains(message, "models--"));
  }
  CHECK(contains(message_of(ErrorCode::kNotFound, [] { resolve_pretrained_path(""); }), "Model path does not exist"));

  const test::TemporaryFolder folder;
  write_file(folder / "model.safetensors", "");
  message = message_of(ErrorCode::kNotFound, [&] { resolve_pretrained_path((folder / "model.safetensors").string()); });
  CHECK(contains(message, "is a file, expected the folder"));
}
