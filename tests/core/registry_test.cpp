#include <doctest/doctest.h>
#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>

#include "vlmzoo/error.hpp"
#include "vlmzoo/registry.hpp"

namespace fs = std::filesystem;
using vlmzoo::Error;
using vlmzoo::ErrorCode;
using vlmzoo::Registry;

namespace {

fs::path fixture_folder(const std::string& name) { return fs::path(VLMZOO_TEST_PLUGINS) / name; }
fs::path fixture(const std::string& name) { return fixture_folder(name) / ("vlmzoo_" + name + ".so"); }

/// A folder of the test's own that only its owner may write to, removed at the end.
class OwnFolder {
 public:
  OwnFolder() {
    std::string pattern = (fs::temp_directory_path() / "vlmzoo_registry_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = fs::canonical(pattern);
  }
  ~OwnFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;

  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Sets an environment variable (null: unsets it) and puts the old value back.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value == nullptr ? ::unsetenv(name) : ::setenv(name, value, 1);
  }
  ~Environment() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

std::string error_text(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL_CHECK("expected an Error");
  return "";
}

/// The reason for which open_plugin refuses `file`, which its message has to name.
std::string refusal(const fs::path& file) {
  const std::string text = error_text(ErrorCode::kPlugin, [&] { vlmzoo::open_plugin(file); });
  const std::string prefix = file.string() + ": ";
  CHECK(text.starts_with(prefix));
  return text.substr(std::min(prefix.size(), text.size()));
}

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE(text << " lacks " << part);
  return false;
}

void write(const fs::path& file, const std::string& content) {
  std::ofstream(file, std::ios::binary) << content;
  fs::permissions(file, fs::perms(0644));  // whatever the umask is
}

fs::path copy_of_good(const fs::path& file) {
  fs::copy_file(fixture("good"), file, fs::copy_options::overwrite_existing);
  fs::permissions(file, fs::perms(0644));
  return file;
}

/// A copy of the good plugin whose ELF header `change` has altered.
fs::path patched(const fs::path& file, const std::function<void(Elf64_Ehdr&)>& change) {
  copy_of_good(file);
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  Elf64_Ehdr header{};
  stream.read(reinterpret_cast<char*>(&header), sizeof(header));
  change(header);
  stream.seekp(0);
  stream.write(reinterpret_cast<const char*>(&header), sizeof(header));
  return file;
}

Registry registry_of(std::initializer_list<fs::path> folders) {
  return Registry(std::vector<fs::path>(folders), /*warn_refused=*/false);
}

std::string created_type(const Registry& registry, const std::string& in_config, const std::string& override = "") {
  vlmzoo::ModelConfig config;
  config.model_type = in_config;
  return registry.create_model(config, {}, override)->info().model_type;
}

}  // namespace

TEST_CASE("a good plugin is opened and described") {
  const vlmzoo::PluginInfo plugin = vlmzoo::open_plugin(fixture("good"));
  CHECK(plugin.name == "good");
  CHECK(plugin.version == "1.2.3");
  CHECK(plugin.model_types == std::vector<std::string>{"good_model", "good_alias"});
  CHECK(plugin.file == fs::canonical(fixture("good")));
  REQUIRE(plugin.descriptor != nullptr);
  CHECK(plugin.descriptor->presets[0].name == std::string("tiny"));
  CHECK(vlmzoo::open_plugin(fixture("good")).descriptor == plugin.descriptor);
}

TEST_CASE("a plugin of another build is refused with what it has and what is needed") {
  CHECK(refusal(fixture("other_abi")) == "has plugin ABI version 4242, this host needs " +
                                             std::to_string(vlmzoo::kPluginAbiVersion) +
                                             "; rebuild the plugin against this vlmzoo");
  const std::string identity = refusal(fixture("other_identity"));
  CHECK(contains(identity, "[libtorch 1.0.0 | of another build]"));
  CHECK(contains(identity, "[" VLMZOO_BUILD_IDENTITY "]"));
}

TEST_CASE("a library that is no plugin or can't be loaded is refused with the reason") {
  CHECK(contains(refusal(fixture("no_symbol")), "exports no symbol 'vlmzoo_plugin'"));
  CHECK(refusal(fixture("undefined_symbol")) == "cannot be loaded: undefined symbol: vlmzoo_test_defined_nowhere");
}

TEST_CASE("a descriptor with a fault is refused") {
  CHECK(contains(refusal(fixture("no_name")), "its name or version"));
  CHECK(contains(refusal(fixture("no_types")), "lists no model types"));
  CHECK(contains(refusal(fixture("upper_case_type")), "its model type 'Malformed_model'"));
  CHECK(contains(refusal(fixture("repeated_type")), "lists the model type 'malformed_model' twice"));
  CHECK(contains(refusal(fixture("nameless_preset")), "its preset 1"));
  CHECK(contains(refusal(fixture("no_create")), "has no create function"));
}

TEST_CASE("a plugin file cut short anywhere is refused, not mapped") {
  const OwnFolder folder;
  const std::uintmax_t size = fs::file_size(fixture("good"));
  for (const std::uintmax_t length : {std::uintmax_t{0}, std::uintmax_t{3}, std::uintmax_t{40}, std::uintmax_t{64},
                                      size / 10, size / 2, size * 9 / 10, size - 3}) {
    CAPTURE(length);
    const fs::path file = copy_of_good(folder / "cut.so");
    fs::resize_file(file, length);
    CHECK(refusal(file).starts_with("truncated: "));
  }
  SUBCASE("and so is one whose rest is zeros, as a broken-off download leaves it") {
    for (const std::uintmax_t length : {size / 2, size * 9 / 10}) {
      const fs::path file = copy_of_good(folder / "zeros.so");
      fs::resize_file(file, length);
      fs::resize_file(file, size);
      CHECK(refusal(file).starts_with("truncated: "));
    }
  }
  SUBCASE("and the whole copy works") { CHECK(vlmzoo::open_plugin(copy_of_good(folder / "whole.so")).name == "good"); }
}

TEST_CASE("a file that is no ELF library for this machine is refused") {
  const OwnFolder folder;
  write(folder / "text.so", "#!/bin/sh\necho this is no library, but long enough to hold an ELF header and more\n");
  CHECK(refusal(folder / "text.so") == "not an ELF shared library");
  write(folder / "short.so", "hi");
  CHECK(refusal(folder / "short.so") == "not an ELF shared library");

  const auto with = [&](const std::function<void(Elf64_Ehdr&)>& change) {
    return refusal(patched(folder / "patched.so", change));
  };
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_machine = EM_S390; }), "built for another machine: ELF machine 22"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_ident[EI_CLASS] = ELFCLASS32; }), "built for another machine"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_ident[EI_DATA] = ELFDATA2MSB; }), "built for another machine"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_type = ET_REL; }), "not a shared library"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_phnum = 0; }), "damaged"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_phentsize = 1; }), "damaged"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_phnum = 0xFFFF; }), "truncated: its 65535 program headers"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_phoff = ~std::uint64_t{0} - 7; }), "truncated: its"));
  CHECK(contains(with([](Elf64_Ehdr& h) { h.e_shoff = ~std::uint64_t{0} - 7; }), "truncated: its"));
}

TEST_CASE("a plugin with another sanitizer's runtime, which would end the process, is refused") {
  const OwnFolder folder;
  std::ifstream in(fixture("good"), std::ios::binary);
  std::string content((std::istreambuf_iterator<char>(in)), {});
  const std::string needed("libstdc++.so.6", 15), other("libhwasan.so.0", 15);  // with their final zeros
  const std::size_t place = content.find(needed);
  REQUIRE(place != std::string::npos);
  write(folder / "hwasan.so", content.replace(place, needed.size(), other));
  CHECK(contains(refusal(folder / "hwasan.so"), "built with a sanitizer (libhwasan.so)"));
}

TEST_CASE("only a regular file can be a plugin") {
  const OwnFolder folder;
  CHECK(refusal(folder / "absent.so") == "does not exist");
  fs::create_directory(folder / "folder.so");
  CHECK(contains(refusal(folder / "folder.so"), "is a folder"));
  REQUIRE(::mkfifo((folder / "fifo.so").c_str(), 0600) == 0);
  CHECK(contains(refusal(folder / "fifo.so"), "is a device, pipe or socket"));
  CHECK(contains(refusal("/dev/null"), "is a device, pipe or socket"));
  fs::create_symlink("nowhere.so", folder / "dangling.so");
  CHECK(refusal(folder / "dangling.so") == "is a symbolic link to 'nowhere.so', which does not exist");
  fs::create_symlink("loop.so", folder / "loop.so");
  CHECK_FALSE(refusal(folder / "loop.so").empty());
  fs::create_symlink(fixture("good"), folder / "link.so");
  CHECK(vlmzoo::open_plugin(folder / "link.so").file == fs::canonical(fixture("good")));
}

TEST_CASE("a plugin that anyone could have changed or replaced is refused") {
  const OwnFolder folder;
  const fs::path file = copy_of_good(folder / "open.so");
  SUBCASE("the file is writable for everyone") {
    fs::permissions(file, fs::perms(0646));
    CHECK(contains(refusal(file), "writable for everyone (mode 646)"));
  }
  SUBCASE("its folder is") {
    fs::permissions(folder.path(), fs::perms(0777));
    CHECK(contains(refusal(file), "in a folder that is writable for everyone"));
  }
  SUBCASE("the folder of a link to it is") {
    fs::create_directory(folder / "links");
    fs::create_symlink(file, folder / "links/link.so");
    fs::permissions(folder / "links", fs::perms(0777));
    CHECK(contains(refusal(folder / "links/link.so"), "in a folder that is writable for everyone"));
  }
  SUBCASE("a sticky folder is fine") {
    fs::permissions(folder.path(), fs::perms(01777));
    CHECK(vlmzoo::open_plugin(file).name == "good");
  }
}

TEST_CASE("types and aliases are found without regard to case") {
  const Registry registry = registry_of({fixture_folder("good"), fixture_folder("create_throws")});
  CHECK(registry.plugins().size() == 2);
  CHECK(registry.refused().empty());
  for (const char* type : {"good_model", "GOOD_MODEL", "good_alias", "Good_Alias"}) {
    CHECK(registry.find(type).name == "good");
    CHECK(created_type(registry, type) == "good_model");
  }
}

TEST_CASE("an unknown type is an error that says where, what there is and what is near") {
  const Registry registry = registry_of({fixture_folder("good"), fixture_folder("create_throws")});
  const auto text = [&](const std::string& type, const std::string& where = "") {
    return error_text(ErrorCode::kUnsupported, [&] { registry.find(type, where); });
  };
  CHECK(text("gpt", "configs/a.yaml:3") ==
        "Unsupported model type: gpt (configs/a.yaml:3); available: create_throws, good_model (good_alias)");
  CHECK(text("god_model") ==
        "Unsupported model type: god_model; available: create_throws, good_model (good_alias); did you mean "
        "'good_model'?");
  CHECK(text("").starts_with("Unsupported model type: "));
  CHECK(text(fixture("good").string()).starts_with("Unsupported model type: /"));
  CHECK(text("a\x1b[31m\n" + std::string(100000, 'x')).size() < 1000);
  CHECK(contains(error_text(ErrorCode::kUnsupported, [] { registry_of({"/nowhere"}).find("gpt"); }),
                 "available: none (no plugin in /nowhere)"));
}

TEST_CASE("what was refused is kept, and said when a type is not found") {
  const OwnFolder folder;
  for (const char* name : {"a.so", "b.so", "c.so", "d.so"}) write(folder / name, "no library");
  fs::create_directory(folder / "e.so");
  fs::create_symlink("nowhere", folder / "f.so");
  write(folder / "readme.txt", "not looked at");
  const Registry registry = registry_of({folder.path()});
  CHECK(registry.plugins().empty());
  REQUIRE(registry.refused().size() == 6);
  CHECK(registry.refused()[0].file == folder / "a.so");
  CHECK(registry.refused()[0].reason == "not an ELF shared library");
  const std::string text = error_text(ErrorCode::kUnsupported, [&] { registry.find("gpt"); });
  CHECK(contains(text, "; 6 plugin files were refused: " + (folder / "a.so").string() + ": not an ELF shared library"));
  CHECK(contains(text, "; " + (folder / "c.so").string() + ": "));
  CHECK(contains(text, "; and 3 more"));
}

TEST_CASE("two plugins with one type are an error that names both") {
  const std::string text = error_text(ErrorCode::kPlugin, [] {
    registry_of({fixture_folder("good"), fixture_folder("duplicate_type")});
  });
  CHECK(contains(text, "'good_alias'"));
  CHECK(contains(text, fixture("good").string()));
  CHECK(contains(text, fixture("duplicate_type").string()));
}

TEST_CASE("the same file found twice counts once") {
  const OwnFolder folder;
  const fs::path file = copy_of_good(folder / "a.so");
  fs::create_symlink(file, folder / "b.so");
  fs::create_hard_link(file, folder / "c.so");
  write(folder / "z.so", "no library");
  fs::create_directory_symlink(folder.path(), folder / "again");
  const Registry registry = registry_of({folder.path(), folder.path(), folder / "again"});
  CHECK(registry.plugins().size() == 1);
  CHECK(registry.refused().size() == 1);
}

TEST_CASE("the override wins over the configuration, and both over the default") {
  const Registry registry = registry_of({fixture_folder("good"), fixture_folder("default_type")});
  CHECK(created_type(registry, "good_model", "INTERNVL") == vlmzoo::kDefaultModelType);
  CHECK(created_type(registry, "good_model") == "good_model");
  CHECK(created_type(registry, "no such thing", "good_alias") == "good_model");
  CHECK(created_type(registry, "") == vlmzoo::kDefaultModelType);

  const std::string text =
      error_text(ErrorCode::kUnsupported, [] { registry_of({fixture_folder("good")}).create_model({}); });
  CHECK(contains(text, "Unsupported model type: internvl (the default); available: good_model"));
}

TEST_CASE("whatever a plugin throws leaves as an Error that names it") {
  const Registry registry = registry_of({fixture_folder("create_throws")});
  const auto text = [&](ErrorCode code, const std::string& kind) {
    vlmzoo::ModelConfig config;
    config.model_type = "create_throws";
    config.pretrained_path = kind;
    return error_text(code, [&] { registry.create_model(config); });
  };
  const std::string who = "plugin create_throws (" + fs::canonical(fixture("create_throws")).string() + ")";
  CHECK(text(ErrorCode::kCorrupt, "vlmzoo") == "the weights are broken");
  CHECK(text(ErrorCode::kPlugin, "runtime_error") == who + " failed: internal error: a runtime_error's words");
  CHECK(text(ErrorCode::kPlugin, "c10") == who + " failed: a c10::Error's words");
  CHECK(text(ErrorCode::kMemory, "bad_alloc") == who + " failed: out of memory");
  const std::string huge = text(ErrorCode::kMemory, "huge");
  CHECK(huge.starts_with(who + " failed: out of memory: "));
  CHECK(huge.find("can't allocate memory") != std::string::npos);
  CHECK(text(ErrorCode::kPlugin, "int") == who + " failed: internal error: an exception of an unknown type");
  CHECK(text(ErrorCode::kPlugin, "null") == who + " created no model for 'create_throws'");
}

TEST_CASE("the search path is the named folders, the environment's, the program's, and never the working directory") {
  const OwnFolder folder;
  fs::create_directory(folder / "first");
  fs::create_directory(folder / "second");
  copy_of_good(folder / "here.so");
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  const fs::path ours = (fs::read_symlink("/proc/self/exe").parent_path() / "../lib/vlmzoo/plugins").lexically_normal();
  using Paths = std::vector<fs::path>;
  {
    const Environment unset("VLMZOO_PLUGIN_PATH", nullptr);
    CHECK(vlmzoo::plugin_search_path() == Paths{ours});
    CHECK_THROWS_AS(Registry(vlmzoo::plugin_search_path(), false).find("good_model"), Error);
  }
  {
    const Environment empty("VLMZOO_PLUGIN_PATH", "::");
    CHECK(vlmzoo::plugin_search_path() == Paths{ours});
  }
  {
    const Environment named("VLMZOO_PLUGIN_PATH", (":" + (folder / "second").string() + ":").c_str());
    const std::vector<std::string> first = {"first"};
    CHECK(vlmzoo::plugin_search_path(first) == Paths{folder / "first", folder / "second", ours});
  }
  fs::current_path(before);
}

TEST_CASE("a folder that was named and isn't there is an error") {
  const OwnFolder folder;
  write(folder / "file", "");
  for (const std::string& name : {(folder / "absent").string(), (folder / "file").string(), std::string()}) {
    const std::vector<std::string> first = {name};
    const std::string text = error_text(ErrorCode::kNotFound, [&] { vlmzoo::plugin_search_path(first); });
    CHECK(text == "Plugin folder does not exist: '" + name + "' (from --plugin-dir)");
  }
  const Environment named("VLMZOO_PLUGIN_PATH", (folder / "absent").c_str());
  const std::string text = error_text(ErrorCode::kNotFound, [] { vlmzoo::plugin_search_path(); });
  CHECK(contains(text, "(from VLMZOO_PLUGIN_PATH)"));
}
