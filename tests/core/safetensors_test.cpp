#include "vlmzoo/safetensors.hpp"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "../support.hpp"
#include "vlmzoo/error.hpp"

using namespace vlmzoo;
namespace fs = std::filesystem;

namespace {

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(length >> (8 * i) & 0xFF);
  return text + rest;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return with_length(header.size(), header + data);
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(": {"dtype": ")" + dtype + R"(", "shape": )" + shape + R"(, "data_offsets": )" + offsets +
         "}";
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

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What a file with these bytes is refused with.
std::string refused(const std::string& bytes, ErrorCode code = ErrorCode::kCorrupt) {
  const test::TemporaryFolder folder;
  const fs::path path = folder / "hostile.safetensors";
  write_file(path, bytes);
  const std::string message = message_of(code, [&] { SafetensorsFile file(path); });
  CHECK(contains(message, path.string()));
  CHECK(message.size() < 600);
  CHECK(is_utf8(message));
  return message;
}

std::string refused_header(const std::string& header, const std::string& data = "") {
  return refused(file_of(header, data));
}

std::string read_all(const SafetensorsFile& file, const TensorEntry& entry) {
  std::string bytes(entry.bytes(), '\0');
  file.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

TEST_CASE("dtypes have the names and sizes of the format") {
  CHECK(name_of(DType::kBF16) == "BF16");
  CHECK(name_of(DType::kBool) == "BOOL");
  CHECK(size_of(DType::kF64) == 8);
  CHECK(size_of(DType::kF32) == 4);
  CHECK(size_of(DType::kF16) == 2);
  CHECK(size_of(DType::kU8) == 1);
  const std::vector<std::int64_t> shape = {2, 3};
  CHECK(to_string(shape) == "[2, 3]");
  CHECK(to_string({}) == "[]");
}

TEST_CASE("a file made by hand reads as the format says") {
  const test::TemporaryFolder folder;
  const fs::path path = folder / "a.safetensors";
  // In the header's order 'b' comes first, in the data 'a' does; a scalar has shape [], an empty tensor no bytes.
  write_file(path, file_of("{" + tensor("b", "U8", "[3]", "[4, 7]") + "," + tensor("a", "F32", "[]", "[0, 4]") + "," +
                               tensor("empty", "F16", "[0, 5]", "[4, 4]") + R"(,"__metadata__": {"format": "pt"}}   )",
                           "wxyzABC"));
  const SafetensorsFile file(path);
  REQUIRE(file.entries().size() == 3);
  CHECK(file.entries()[0].name == "a");
  CHECK(file.entries()[1].name == "empty");
  CHECK(file.entries()[2].name == "b");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(file.find("c") == nullptr);
  CHECK(file.find("__metadata__") == nullptr);
  CHECK(file.find("empty")->shape == std::vector<std::int64_t>{0, 5});
  CHECK(read_all(file, *file.find("a")) == "wxyz");
  CHECK(read_all(file, *file.find("empty")) == "");
  CHECK(read_all(file, *file.find("b")) == "ABC");
  char two[2];
  file.read(*file.find("b"), 1, std::as_writable_bytes(std::span(two)));
  CHECK(std::string(two, 2) == "BC");
}

TEST_CASE("reading beyond a tensor is refused, as no neighbour's bytes may leak in") {
  const test::TemporaryFolder folder;
  write_file(
      folder / "f",
      file_of("{" + tensor("a", "U8", "[2]", "[0, 2]") + "," + tensor("b", "U8", "[2]", "[2, 4]") + "}", "abcd"));
  const SafetensorsFile file(folder / "f");
  std::byte out[3];
  message_of(ErrorCode::kInternal, [&] { file.read(*file.find("a"), 0, out); });
  message_of(ErrorCode::kInternal, [&] { file.read(*file.find("a"), ~std::uint64_t{0}, out); });
}

TEST_CASE("a moved file keeps its entries where they were and still reads") {
  const test::TemporaryFolder folder;
  write_file(folder / "f", file_of("{" + tensor("a", "U8", "[2]", "[0, 2]") + "}", "ab"));
  write_file(folder / "g", file_of("{}"));
  SafetensorsFile first(folder / "f");
  const TensorEntry* entry = first.find("a");
  SafetensorsFile second(std::move(first));
  SafetensorsFile third(folder / "g");
  third = std::move(second);
  CHECK(third.find("a") == entry);
  CHECK(read_all(third, *entry) == "ab");
  CHECK(third.path() == folder / "f");
}

TEST_CASE("a file that isn't safetensors, or not all of it, says what it is") {
  CHECK(contains(refused(""), "empty"));
  CHECK(contains(refused("1234567"), "truncated: the file has 7 bytes"));
  CHECK(contains(refused(with_length(0, "")), "header length 0"));
  CHECK(contains(refused(with_length(1000, "{}")), "truncated: the header needs bytes up to 1008, the file has 10"));
  CHECK(contains(refused(with_length(100'000'001, "{}")), "header length 100000001"));
  CHECK(contains(refused(with_length(~std::uint64_t{0}, "{}")), "header length 18446744073709551615"));
  CHECK(contains(refused("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "Git LFS"));
  CHECK(contains(refused(std::string("PK\x03\x04\0\0\0\0", 8) + "archive"), "truncated: the header needs"));
  CHECK(contains(refused("<!DOCTYPE html><html></html>"), "not a safetensors file"));
  CHECK(contains(refused_header("[1, 2, 3]"), "does not begin with '{'"));
  CHECK(contains(refused_header(R"({"a": )"), "not valid JSON"));
  CHECK(contains(refused_header("{}", "x"), "1 bytes follow"));
}

TEST_CASE("a data section cut short names the tensor that is affected, and both sizes") {
  const std::string header =
      "{" + tensor("first", "U8", "[4]", "[0, 4]") + "," + tensor("second", "F32", "[2]", "[4, 12]") + "}";
  const std::string message = refused_header(header, "0123456789");
  CHECK(contains(message, "truncated: tensor 'second' needs bytes up to " + std::to_string(8 + header.size() + 12)));
  CHECK(contains(message, "the file has " + std::to_string(8 + header.size() + 10)));
}

TEST_CASE("a tensor whose description breaks the format is refused by name") {
  const auto one = [](const std::string& value) { return refused_header(R"({"bad": )" + value + "}", "0123"); };
  for (const char* value : {
           "3",
           "[]",
           "null",
           "{}",
           R"({"shape": [4], "data_offsets": [0, 4]})",
           R"({"dtype": 8, "shape": [4], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": 4, "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": ["4"], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": [4.0], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": [-2, -2], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": [18446744073709551615], "data_offsets": [0, 4]})",
           R"({"dtype": "U8", "shape": [4]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [0]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 4]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": {"begin": 0, "end": 4}})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [0, "4"]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [-1, 3]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [4, 0]})",
           R"({"dtype": "U8", "shape": [4], "data_offsets": [18446744073709551614, 18446744073709551615]})",
       }) {
    CAPTURE(value);
    CHECK(contains(one(value), "tensor 'bad'"));
  }
}

TEST_CASE("a shape that doesn't fit its range is refused with both sizes, also when the product overflows") {
  CHECK(contains(refused_header("{" + tensor("t", "F32", "[2, 3]", "[0, 20]") + "}", std::string(20, 'x')),
                 "tensor 't': F32 [2, 3] takes 24 bytes, but data_offsets [0, 20] hold 20"));
  // 2^32 × 2^32 = 0 and 2^62 × 4 + 4 = 4 modulo 2^64.
  CHECK(contains(refused_header("{" + tensor("t", "U8", "[4294967296, 4294967296]", "[0, 0]") + "}"), "too large"));
  CHECK(
      contains(refused_header("{" + tensor("t", "F32", "[4611686018427387905]", "[0, 4]") + "}", "0123"), "too large"));
  std::string ones = "[1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  CHECK(contains(refused_header("{" + tensor("t", "U8", ones + "]", "[0, 1]") + "}", "0"), "65 dimensions"));
}

TEST_CASE("ranges that overlap, leave holes or end beyond all numbers are refused") {
  const auto two = [](const std::string& a, const std::string& b) {
    return refused_header("{" + tensor("a", "U8", "[4]", a) + "," + tensor("b", "U8", "[4]", b) + "}", "01234567");
  };
  CHECK(
      contains(two("[0, 4]", "[3, 7]"), "tensor 'b' begins at byte 3 of the data, inside tensor 'a', which ends at 4"));
  CHECK(contains(two("[0, 4]", "[0, 4]"), "inside tensor"));
  CHECK(contains(two("[0, 4]", "[5, 9]"), "hole"));
  CHECK(contains(two("[4, 8]", "[8, 12]"), "hole"));
  CHECK(contains(two("[0, 4]", "[9223372036854775803, 9223372036854775807]"), "hole"));
  CHECK(contains(refused_header("{" + tensor("t", "U8", "[9223372036854775807]", "[0, 9223372036854775807]") + "}"),
                 "truncated"));
}

TEST_CASE("names that appear twice and metadata that is no map of texts are refused") {
  CHECK(contains(
      refused_header("{" + tensor("t", "U8", "[1]", "[0, 1]") + "," + tensor("t", "U8", "[1]", "[1, 2]") + "}", "01"),
      "'t' appears twice"));
  CHECK(contains(refused_header(R"({"__metadata__": 3})"), "__metadata__"));
  CHECK(contains(refused_header(R"({"__metadata__": {"a": 3}})"), "__metadata__ key 'a'"));
}

TEST_CASE("a dtype that this program doesn't know is unsupported and named") {
  const std::string message =
      refused(file_of("{" + tensor("w", "F8_E4M3", "[1]", "[0, 1]") + "}", "0"), ErrorCode::kUnsupported);
  CHECK(contains(message, "tensor 'w': dtype F8_E4M3"));
  CHECK(contains(message, "BF16"));
}

TEST_CASE("names and keys of a million bytes don't make messages of a million bytes") {
  const std::string name(1'000'000, 'n');
  refused_header("{" + tensor(name, "U8", "[2]", "[0, 1]") + "}", "0");
  refused(file_of("{" + tensor(name, name, "[2]", "[0, 1]") + "}", "0"), ErrorCode::kUnsupported);
  refused_header("{" + tensor(name, "U8", "[1]", "[0, 1]") + "," + tensor(name, "U8", "[1]", "[1, 2]") + "}", "01");
}

TEST_CASE("every file cut at any byte and with any header byte changed is read or refused, never worse") {
  const test::TemporaryFolder folder;
  const std::string good =
      file_of("{" + tensor("a", "F32", "[2, 1]", "[0, 8]") + R"(,"__metadata__":{"k":"v"}})", "01234567");
  const auto survives = [&](const std::string& bytes) {
    write_file(folder / "f", bytes);
    try {
      const SafetensorsFile file(folder / "f");
      for (const TensorEntry& entry : file.entries()) read_all(file, entry);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  CHECK(survives(good));
  for (std::size_t size = 0; size < good.size(); ++size) CHECK_FALSE(survives(good.substr(0, size)));
  for (std::size_t at = 0; at + 8 < good.size(); ++at) {
    for (const char replacement : {'\0', '9', '"', '}', '[', '-', '\xff'}) {
      std::string changed = good;
      changed[at] = replacement;
      survives(changed);
    }
  }
}

TEST_CASE("a file that got shorter after it was opened is an error and not a crash") {
  const test::TemporaryFolder folder;
  const std::string bytes = file_of("{" + tensor("a", "U8", "[4]", "[0, 4]") + "}", "0123");
  write_file(folder / "f", bytes);
  const SafetensorsFile file(folder / "f");
  fs::resize_file(folder / "f", bytes.size() - 1);
  CHECK(contains(message_of(ErrorCode::kCorrupt, [&] { read_all(file, *file.find("a")); }), "tensor 'a'"));
}

TEST_CASE("an absent file, a folder and a pipe are told apart") {
  const test::TemporaryFolder folder;
  message_of(ErrorCode::kNotFound, [&] { SafetensorsFile file(folder / "absent"); });
  message_of(ErrorCode::kIo, [&] { SafetensorsFile file(folder.path()); });
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  message_of(ErrorCode::kIo, [&] { SafetensorsFile file(folder / "pipe"); });
}

TEST_CASE("what the writer writes in pieces the reader reads, in the order given and aligned") {
  const test::TemporaryFolder folder;
  const fs::path path = folder / "out.safetensors";
  {
    SafetensorsWriter writer(path,
                             {{.name = "z.weight", .dtype = DType::kF32, .shape = {2}},
                              {.name = "größe", .dtype = DType::kI8, .shape = {3, 1}},
                              {.name = "none", .dtype = DType::kF64, .shape = {0}},
                              {.name = "a", .dtype = DType::kBool, .shape = {}}},
                             {{"format", "pt"}, {"note", "\"quoted\"\n"}});
    writer.write(bytes_of("0123"));
    writer.write(bytes_of("4567ab"));
    writer.write(bytes_of("c!"));
    CHECK_FALSE(fs::exists(path));
    writer.commit();
  }
  const SafetensorsFile file(path);
  REQUIRE(file.entries().size() == 4);
  CHECK(file.entries()[0].name == "z.weight");
  CHECK(file.entries()[0].begin % 8 == 0);
  CHECK(file.find("größe")->shape == std::vector<std::int64_t>{3, 1});
  CHECK(file.find("a")->dtype == DType::kBool);
  CHECK(read_all(file, *file.find("z.weight")) == "01234567");
  CHECK(read_all(file, *file.find("größe")) == "abc");
  CHECK(read_all(file, *file.find("a")) == "!");
  CHECK(file.metadata().at("note") == "\"quoted\"\n");
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);
}

TEST_CASE("a writer that gets too few or too many bytes, or impossible entries, leaves nothing behind") {
  const test::TemporaryFolder folder;
  const TensorEntry entry{.name = "a", .dtype = DType::kF32, .shape = {2}};
  message_of(ErrorCode::kInternal, [&] {
    SafetensorsWriter writer(folder / "f", {entry});
    writer.write(bytes_of("0123456"));
    writer.commit();
  });
  message_of(ErrorCode::kInternal, [&] {
    SafetensorsWriter writer(folder / "f", {entry});
    writer.write(bytes_of("0123456"));
    writer.write(bytes_of("78"));
  });
  message_of(ErrorCode::kInternal, [&] { SafetensorsWriter writer(folder / "f", {entry, entry}); });
  for (const TensorEntry& bad :
       {TensorEntry{.name = "\xff", .shape = {}}, TensorEntry{.name = "__metadata__", .shape = {}},
        TensorEntry{.name = "a", .dtype = DType::kF32, .shape = {-1}},
        TensorEntry{.name = "a", .dtype = DType::kF32, .shape = {1LL << 62, 1LL << 62}}}) {
    message_of(ErrorCode::kInternal, [&] { SafetensorsWriter writer(folder / "f", {bad}); });
  }
  message_of(ErrorCode::kNotFound, [&] { SafetensorsWriter writer(folder / "absent" / "f", {entry}); });
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("a disk that fills up while tensors are written leaves nothing behind") {
  const test::TemporaryFolder folder;
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limited{2000, before.rlim_max};
  std::string message;
  ErrorCode code = ErrorCode::kInternal;
  ::setrlimit(RLIMIT_FSIZE, &limited);
  try {
    SafetensorsWriter writer(folder / "f", {{.name = "a", .dtype = DType::kU8, .shape = {4000}}});
    writer.write(bytes_of(std::string(1000, 'x')));
    writer.write(bytes_of(std::string(3000, 'x')));
    writer.commit();
  } catch (const Error& error) {
    message = error.what();
    code = error.code();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(code == ErrorCode::kIo);
  CHECK(contains(message, (folder / "f").string()));
  CHECK(contains(message, "1000 of 4000 bytes"));
  CHECK(contains(message, "File too large"));
  CHECK(fs::is_empty(folder.path()));
}

TEST_CASE("several threads may read one file at once") {
  const test::TemporaryFolder folder;
  constexpr std::size_t kSize = 1 << 16;
  std::string data;
  for (std::size_t i = 0; i < 4; ++i) data += std::string(kSize, static_cast<char>('a' + i));
  SafetensorsWriter writer(folder / "f", {{.name = "all", .dtype = DType::kU8, .shape = {4 * kSize}}});
  writer.write(bytes_of(data));
  writer.commit();
  const SafetensorsFile file(folder / "f");
  std::vector<std::string> got(4, std::string(kSize, '\0'));
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back(
        [&, i] { file.read(file.entries()[0], i * kSize, std::as_writable_bytes(std::span(got[i]))); });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < 4; ++i) CHECK(got[i] == data.substr(i * kSize, kSize));
}
