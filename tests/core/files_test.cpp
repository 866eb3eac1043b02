#include "vlmzoo/files.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <optional>

#include "../support.hpp"
#include "vlmzoo/error.hpp"

using namespace vlmzoo;
namespace fs = std::filesystem;

namespace {

std::string sha256_of(std::string_view text) { return sha256(std::as_bytes(std::span(text))); }

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

/// The error that `work` ends with.
template <typename Work>
std::optional<Error> error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

bool contains(const Error& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

/// Files can't grow beyond `bytes` while this lives: the nearest thing to a full disk that a test can make.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_{};
  void (*handler_)(int);
};

}  // namespace

TEST_CASE("a written file reads back byte for byte") {
  const test::TemporaryFolder folder;
  const std::string content("a\0b\xff\n", 5);
  write_file(folder / "file", content);
  CHECK(read_file(folder / "file") == content);
  write_file(folder / "file", "");
  CHECK(read_file(folder / "file") == "");
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("reading what isn't there, isn't a file or is too large says so") {
  const test::TemporaryFolder folder;
  const auto absent = error_of([&] { read_file(folder / "absent"); });
  REQUIRE(absent);
  CHECK(absent->code() == ErrorCode::kNotFound);
  CHECK(contains(*absent, (folder / "absent").string()));

  const auto directory = error_of([&] { read_file(folder.path()); });
  REQUIRE(directory);
  CHECK(directory->code() == ErrorCode::kIo);
  CHECK(contains(*directory, "folder"));

  write_file(folder / "four", "1234");
  CHECK(read_file(folder / "four", 4) == "1234");
  const auto large = error_of([&] { read_file(folder / "four", 3); });
  REQUIRE(large);
  CHECK(large->code() == ErrorCode::kCorrupt);

  const auto below_a_file = error_of([&] { read_file(folder / "four" / "x"); });
  REQUIRE(below_a_file);
  CHECK(below_a_file->code() == ErrorCode::kNotFound);

  fs::create_symlink("gone", folder / "link");
  const auto dangling = error_of([&] { read_file(folder / "link"); });
  REQUIRE(dangling);
  CHECK(dangling->code() == ErrorCode::kNotFound);
  CHECK(contains(*dangling, "gone"));
}

TEST_CASE("a file whose size the system doesn't tell is read whole") {
  CHECK(read_file("/proc/self/status").starts_with("Name:"));
  CHECK_THROWS_AS(read_file("/proc/self/status", 10), Error);
}

TEST_CASE("an atomic file isn't there before commit, and without commit nothing stays") {
  const test::TemporaryFolder folder;
  write_file(folder / "file", "old");
  {
    AtomicFile file(folder / "file");
    file.write("new");
    CHECK(read_file(folder / "file") == "old");
  }
  CHECK(read_file(folder / "file") == "old");
  CHECK(files_in(folder.path()) == 1);

  AtomicFile file(folder / "file");
  file.write("ne");
  file.write("w");
  file.commit();
  CHECK(read_file(folder / "file") == "new");
  CHECK(files_in(folder.path()) == 1);
  CHECK_THROWS_AS(file.commit(), Error);
  CHECK_THROWS_AS(file.write("more"), Error);
  CHECK(read_file(folder / "file") == "new");
}

TEST_CASE("a symbolic link stays and its target is replaced, also when the target isn't there yet") {
  const test::TemporaryFolder folder;
  fs::create_directory(folder / "real");
  fs::create_symlink("real/target", folder / "link");
  write_file(folder / "link", "first");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "real/target") == "first");
  write_file(folder / "link", "second");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "real/target") == "second");

  fs::create_symlink("loop", folder / "loop");
  const auto loop = error_of([&] { write_file(folder / "loop", "x"); });
  REQUIRE(loop);
  CHECK(loop->code() == ErrorCode::kIo);
}

TEST_CASE("a replaced file keeps its mode") {
  const test::TemporaryFolder folder;
  write_file(folder / "file", "old");
  fs::permissions(folder / "file", fs::perms::owner_read | fs::perms::owner_write);
  write_file(folder / "file", "new");
  CHECK(fs::status(folder / "file").permissions() == (fs::perms::owner_read | fs::perms::owner_write));
}

TEST_CASE("a place that can't be written to is named") {
  const test::TemporaryFolder folder;
  const auto no_folder = error_of([&] { write_file(folder / "absent" / "file", "x"); });
  REQUIRE(no_folder);
  CHECK(no_folder->code() == ErrorCode::kNotFound);
  CHECK(contains(*no_folder, "output folder does not exist: " + (folder / "absent").string()));

  write_file(folder / "file", "x");
  for (const fs::path& path : {folder.path(), folder / "new/", folder / "file" / "below", fs::path()}) {
    CAPTURE(path);
    const auto error = error_of([&] { write_file(path, "x"); });
    REQUIRE(error);
    CHECK(error->code() == ErrorCode::kIo);
    CHECK(contains(*error, path.string()));
  }
  CHECK(read_file(folder / "file") == "x");
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("a pipe is refused and not replaced") {
  const test::TemporaryFolder folder;
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  const auto error = error_of([&] { write_file(folder / "pipe", "x"); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kIo);
  CHECK(fs::is_fifo(folder / "pipe"));
  CHECK_THROWS_AS(sha256_of_file(folder / "pipe"), Error);  // and doesn't wait for a writer
}

TEST_CASE("what a killed process left behind doesn't stop the next one with its id") {
  const test::TemporaryFolder folder;
  std::ofstream(folder / (".file." + std::to_string(::getpid()) + ".tmp")) << "left";
  write_file(folder / "file", "new");
  CHECK(read_file(folder / "file") == "new");
}

TEST_CASE("names as long as the file system allows can be written") {
  const test::TemporaryFolder folder;
  const std::string name(255, 'n');
  write_file(folder / name, "x");
  CHECK(read_file(folder / name) == "x");
  const auto error = error_of([&] { write_file(folder / (name + "n"), "x"); });
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kIo);
}

TEST_CASE("a full disk is an error with the path and the old file and nothing else stay") {
  const test::TemporaryFolder folder;
  write_file(folder / "file", "old");
  std::optional<Error> error, after;
  {
    const FileSizeLimit limit(1000);
    AtomicFile file(folder / "file");
    error = error_of([&] { file.write(std::string(5000, 'x')); });
    after = error_of([&] { file.commit(); });
  }
  REQUIRE(error);
  CHECK(error->code() == ErrorCode::kIo);
  CHECK(contains(*error, (folder / "file").string()));
  CHECK(contains(*error, "4000 more bytes"));
  CHECK(contains(*error, "File too large"));
  REQUIRE(after);
  CHECK(after->code() == ErrorCode::kInternal);
  CHECK(read_file(folder / "file") == "old");
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("SHA-256 gives the digests of FIPS 180-4's examples") {
  CHECK(sha256_of("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_of(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 pads every length around a block as it should") {
  // sha256 over the digests of 'x' * n for n = 0 … 199, from Python's hashlib.
  std::string digests;
  for (std::size_t n = 0; n < 200; ++n) digests += sha256_of(std::string(n, 'x'));
  CHECK(sha256_of(digests) == "f61ffcc417e1f0e59eba2da7fa32fbe05b64e478b68c6bacf990455f00248b98");
}

TEST_CASE("the SHA-256 of a file doesn't depend on how it is cut into pieces") {
  const test::TemporaryFolder folder;
  const std::string content((std::size_t{1} << 20) + 12345, 'y');
  write_file(folder / "file", content);
  CHECK(sha256_of_file(folder / "file") == sha256_of(content));
  CHECK_THROWS_AS(sha256_of_file(folder / "absent"), Error);
}

TEST_CASE("is_utf8 tells well-formed text from the rest") {
  for (const char* good : {"", "plain", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "größe 图 🙂"}) {
    CAPTURE(good);
    CHECK(is_utf8(good));
  }
  for (const char* bad :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xE2\x82", "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "ok\xE2\x28\xA1"}) {
    CAPTURE(bad);
    CHECK_FALSE(is_utf8(bad));
  }
  CHECK(is_utf8(std::string_view("\0", 1)));
}
