#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "data/csv.hpp"
#include "data/dataset.hpp"
#include "support.hpp"
#include "vlmzoo/log.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;
using test::code_of;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A folder with a few (empty) pictures in which a test writes its table: loaders look for pictures, not into them.
struct Place {
  test::TemporaryFolder folder;

  Place() {
    for (const char* name : {"a.jpg", "b.jpg", "c.jpg", "d.jpg", "with, comma.jpg"}) add(name);
  }

  void add(const fs::path& name) const {
    fs::create_directories((folder / name).parent_path());
    std::ofstream(folder / name) << "";
  }
  fs::path write(const fs::path& name, const std::string& content) const {
    std::ofstream(folder / name, std::ios::binary) << content;
    return folder / name;
  }
  DataRequest csv(const std::string& content) const {
    DataRequest request;
    request.path = write("labels.csv", content);
    return request;
  }
  DataRequest jsonl(const std::string& content) const {
    DataRequest request;
    request.path = write("data.jsonl", content);
    return request;
  }
};

std::vector<std::string> ids(const Dataset& dataset) {
  std::vector<std::string> result;
  for (const Sample& sample : dataset.samples) result.push_back(sample.id);
  return result;
}

/// The loading fails with this code and a message that holds all `parts`.
void check_refusal(const DataRequest& request, ErrorCode code, const std::vector<std::string>& parts) {
  std::string message = "loaded";
  try {
    load_dataset(request);
  } catch (const Error& error) {
    CHECK(error.code() == code);
    message = error.what();
  }
  CAPTURE(message);
  CHECK(message.size() < 4000);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(contains(message, part));
  }
}

std::string conversation(const std::string& more) {
  return R"({"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nHow many?"}, )"
         R"({"from": "gpt", "value": "two"}])" +
         more + "}\n";
}

}  // namespace

TEST_CASE("cells survive being written and read, whatever is in them") {
  const std::vector<std::string> cells = {"plain",    "",   "a,b",      "say \"hi\"", "two\nlines",
                                          "cr\r\nlf", "\"", " spaced ", "é"};
  std::string text;
  for (const std::string& cell : cells) text += (text.empty() ? "" : ",") + csv_cell(cell);
  for (const std::string end : {"", "\n", "\r\n"}) {
    const auto rows = parse_csv(text + end, "t.csv");
    REQUIRE(rows.size() == 1);
    CHECK(rows[0].fault.empty());
    CHECK(rows[0].cells == cells);
  }
}

TEST_CASE("rows know their line, also behind quoted line ends, empty lines and a byte order mark") {
  const auto rows = parse_csv("\xEF\xBB\xBFx,y\r\n\r\n\"1\n2\",3\n\n4,\n", "t.csv");
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].cells == std::vector<std::string>{"x", "y"});
  CHECK(rows[0].line == 1);
  CHECK(rows[1].cells == std::vector<std::string>{"1\n2", "3"});
  CHECK(rows[1].line == 3);
  CHECK(rows[2].cells == std::vector<std::string>{"4", ""});
  CHECK(rows[2].line == 6);
}

TEST_CASE("rows that break the quoting rules are faults of their own, the next row is read well") {
  const auto rows = parse_csv("a\"b,c\n\"a\"b,c\na\rb\nx,y\n", "t.csv");
  REQUIRE(rows.size() == 4);
  CHECK(contains(rows[0].fault, "quotation mark"));
  CHECK(contains(rows[1].fault, "behind a quoted cell"));
  CHECK(contains(rows[2].fault, "carriage return"));
  CHECK(rows[3].fault.empty());
  CHECK(code_of([] { parse_csv("x\n\"never ends,1\n2", "t.csv"); }) == ErrorCode::kCorrupt);
}

TEST_CASE("labels.csv gives samples with class, count, answer and split, in its order") {
  const Place place;
  DataRequest request = place.csv(
      "label,image,note,count,answer,split\n"
      "one,b.jpg,x,1,\"there is one, yes\",test\n"
      "none,a.jpg,,0,no,test\n"
      "several,\"with, comma.jpg\",,,,train\n");
  Dataset data = load_dataset(request);
  CHECK(data.class_names == std::vector<std::string>{"none", "one", "several"});  // also of other splits
  CHECK(ids(data) == std::vector<std::string>{"b.jpg", "a.jpg"});
  CHECK(data.samples[0].label == 1);
  CHECK(data.samples[0].count == 1);
  CHECK(data.samples[0].answer == "there is one, yes");
  CHECK(data.samples[0].image == place.folder / "b.jpg");
  CHECK(data.class_counts() == std::vector<std::int64_t>{1, 1, 0});

  request.split = "all";
  data = load_dataset(request);
  CHECK(ids(data) == std::vector<std::string>{"b.jpg", "a.jpg", "with, comma.jpg"});
  CHECK_FALSE(data.samples[2].count);

  request.limit = 1;
  CHECK(ids(load_dataset(request)) == std::vector<std::string>{"b.jpg"});

  request.path = place.folder.path();  // the folder of labels.csv
  request.limit = 0;
  CHECK(load_dataset(request).samples.size() == 3);
}

TEST_CASE("without a split column every split is everything") {
  const Place place;
  for (const char* split : {"test", "train", "all"}) {
    DataRequest request = place.csv("image,label\na.jpg,x\nb.jpg,y\n");
    request.split = split;
    CHECK(load_dataset(request).samples.size() == 2);
  }
}

TEST_CASE("classes are those of the request, by name or number; else the labels, sorted") {
  const Place place;
  DataRequest request = place.csv("image,label\na.jpg,one\nb.jpg,none\nc.jpg,2\n");
  request.class_names = {"several", "one", "none"};
  Dataset data = load_dataset(request);
  CHECK(data.class_names == request.class_names);
  CHECK(data.samples[0].label == 1);
  CHECK(data.samples[1].label == 2);
  CHECK(data.samples[2].label == 2);

  request = place.csv("image,label\na.jpg,10\nb.jpg,2\n");
  data = load_dataset(request);
  CHECK(data.class_names.size() == 11);
  CHECK(data.samples[0].label == 10);
  CHECK(data.samples[1].label == 2);
  request.num_classes = 12;
  CHECK(load_dataset(request).class_names.size() == 12);
}

TEST_CASE("labels outside the classes are an error that names the row, also with --skip-bad") {
  const Place place;
  DataRequest request = place.csv("image,label\na.jpg,one\nb.jpg,none\nc.jpg,3\n");
  request.class_names = {"none", "one", "several"};
  request.skip_bad = true;
  check_refusal(request, ErrorCode::kMismatch, {"labels.csv:4", "'3'", "none, one, several"});
  request = place.csv("image,label\na.jpg,0\nb.jpg,1\nc.jpg,3\n");
  request.num_classes = 3;
  check_refusal(request, ErrorCode::kMismatch, {"labels.csv:4", "'3'"});
  request = place.csv("image,label\na.jpg,cat\nb.jpg,dog\n");
  request.num_classes = 3;
  check_refusal(request, ErrorCode::kMismatch, {"2 classes (cat, dog)", "num_classes is 3"});
}

TEST_CASE("an empty split and a single class are errors that say what there is") {
  const Place place;
  DataRequest request = place.csv("image,label,split\na.jpg,x,train\nb.jpg,y,train\nc.jpg,x,val\nd.jpg,x,val\n");
  check_refusal(request, ErrorCode::kMismatch, {"split test is empty", "train: 2", "val: 2"});
  request.split = "val";
  check_refusal(request, ErrorCode::kMismatch, {"all 2 samples of split val", "'x'"});
  check_refusal(place.csv("image,label\n"), ErrorCode::kMismatch, {"empty", "no good rows"});
}

TEST_CASE("bad rows are told with file and line, and left out and counted on request") {
  const Place place;
  DataRequest request = place.csv(
      "image,label,count,answer,split\n"
      "a.jpg,x,1,,test\n"
      "b.jpg,y,1\n"
      "nowhere.jpg,x,1,,test\n"
      ",x,1,,test\n"
      "b.jpg,,1,,test\n"
      "b.jpg,y,many,,test\n"
      "b.jpg,y,1,,exam\n"
      "a.jpg,y,1,,test\n"
      "b.jpg,y\",1,,test\n"
      "b.jpg,\xFF,1,,test\n"
      "c.jpg,y,1,,test\n");
  check_refusal(
      request, ErrorCode::kCorrupt,
      {"9 of 11 rows", "--skip-bad", "labels.csv:3: 3 cells", "labels.csv:4: picture does not exist: nowhere.jpg",
       "labels.csv:5: image is empty", "labels.csv:6: the label is empty", "labels.csv:7: count is 'many'",
       "labels.csv:8: split is 'exam'", "labels.csv:9: the picture a.jpg is in line 2 already",
       "labels.csv:10: a quotation mark", "labels.csv:11: not UTF-8"});
  request.skip_bad = true;
  set_log_level(LogLevel::kQuiet);
  const Dataset data = load_dataset(request);
  set_log_level(LogLevel::kInfo);
  CHECK(data.skipped == 9);
  CHECK(ids(data) == std::vector<std::string>{"a.jpg", "c.jpg"});
}

TEST_CASE("a thousand bad rows make a short message that counts them all") {
  const Place place;
  std::string text = "image,label\n";
  for (int i = 0; i < 1000; ++i) text += std::string(500, 'x') + ",y\n";
  check_refusal(place.csv(text), ErrorCode::kCorrupt, {"1,000 of 1,000 rows", "labels.csv:2:", "more"});
}

TEST_CASE("tables that are none are refused") {
  const Place place;
  check_refusal(place.csv(""), ErrorCode::kCorrupt, {"labels.csv", "empty"});
  check_refusal(place.csv("picture,label\na.jpg,x\n"), ErrorCode::kCorrupt, {"labels.csv:1", "'image'"});
  check_refusal(place.csv("image,Label\na.jpg,x\n"), ErrorCode::kCorrupt, {"'label'", "but 'Label'"});
  check_refusal(place.csv("image,label,label\na.jpg,x,y\n"), ErrorCode::kCorrupt, {"'label' twice"});
  check_refusal(place.csv("image,label\na.jpg,\"x\n"), ErrorCode::kCorrupt, {"labels.csv:2", "never ends"});
  DataRequest request;
  request.path = place.folder / "absent.csv";
  check_refusal(request, ErrorCode::kNotFound, {"absent.csv"});
  request.path = place.write("data.json", "[]");
  check_refusal(request, ErrorCode::kUnsupported, {"data.json", ".jsonl"});
}

TEST_CASE("JSONL gives question, answer, label and split; repeated pictures get ids of their own") {
  const Place place;
  DataRequest request = place.jsonl(conversation(R"(, "label": "several", "count": 2, "split": "test")") + "\n" +
                                    conversation(R"(, "label": "one", "split": "validation")") +
                                    conversation(R"(, "label": "one", "split": "test", "id": 17)"));
  request.split = "all";
  const Dataset data = load_dataset(request);
  CHECK(ids(data) == std::vector<std::string>{"a.jpg", "a.jpg#2", "17"});
  CHECK(data.samples[0].question == "<image>\nHow many?");
  CHECK(data.samples[0].answer == "two");
  CHECK(data.samples[0].count == 2);
  CHECK(data.samples[1].split == "val");
  CHECK(data.class_names == std::vector<std::string>{"one", "several"});
}

TEST_CASE("labels of JSONL may be numbers, and may be missing where they aren't needed") {
  const Place place;
  DataRequest request = place.jsonl(conversation(R"(, "label": 1)") + conversation(R"(, "label": 0)"));
  CHECK(load_dataset(request).samples[0].label == 1);
  request = place.jsonl(conversation("") + conversation(R"(, "label": "x")"));
  check_refusal(request, ErrorCode::kCorrupt, {"1 of 2 rows", "data.jsonl:1: no label"});
  request.labels = false;
  const Dataset data = load_dataset(request);
  CHECK(data.samples[0].label == -1);
  CHECK(data.samples[1].label == 0);
}

TEST_CASE("bad lines of JSONL are told with file and line") {
  const Place place;
  DataRequest split =
      place.jsonl(conversation(R"(, "label": "x", "split": "test")") + conversation(R"(, "label": "y")") +
                  conversation(R"(, "label": "y", "split": "test")"));
  check_refusal(split, ErrorCode::kCorrupt, {"1 of 3 rows", "data.jsonl:2: split is missing"});
  split.skip_bad = true;
  CHECK(load_dataset(split).samples.size() == 2);
  const std::string good = conversation(R"(, "label": "x", "id": "1")");
  const auto message = [&](const std::string& line, const std::string& why) {
    check_refusal(place.jsonl(good + line + "\n"), ErrorCode::kCorrupt, {"data.jsonl:2: ", why});
  };
  message("{", "not valid JSON");
  message("[1]", "expected a JSON object");
  message(R"({"a": 1, "a": 2})", "appears twice");
  message(std::string(1000, '[') + std::string(1000, ']'), "levels deep");
  message(R"({"conversations": []})", "image is missing");
  message(R"({"image": 3})", "image has to be a text");
  message(R"({"image": ["a.jpg", "b.jpg"]})", "image is a list");
  message(R"({"image": "a.jpg"})", "conversations has to be a list");
  message(R"({"image": "a.jpg", "conversations": ["x", "y"]})", "conversations[0] has to be an object");
  message(R"({"image": "a.jpg", "conversations": [{"from": "gpt", "value": "x"}, {"from": "gpt", "value": "x"}]})",
          "conversations[0] is from 'gpt', expected human");
  message(R"({"image": "a.jpg", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": 1}]})",
          "value has to be a text");
  message(R"({"image": "a\u0000.jpg", "conversations": []})", "no path");
  std::string one_line = conversation(R"(, "label": "x", "split": "some")");
  one_line.pop_back();
  message(one_line, "split is 'some'");
  one_line = good;
  one_line.pop_back();
  message(one_line, "id 1 is in line 1 already");
}

TEST_CASE("a folder per class gives classes by turns, in the order of names") {
  const Place place;
  for (const char* name : {"set/two/1.jpg", "set/two/2.png", "set/one/b.jpg", "set/one/a.JPG", "set/one/c.webp",
                           "set/one/readme.txt", "set/.hidden/x.jpg"}) {
    place.add(name);
  }
  DataRequest request;
  request.path = place.folder / "set";
  Dataset data = load_dataset(request);
  CHECK(data.class_names == std::vector<std::string>{"one", "two"});
  CHECK(ids(data) == std::vector<std::string>{"one/a.JPG", "two/1.jpg", "one/b.jpg", "two/2.png", "one/c.webp"});
  CHECK(data.samples[1].label == 1);
  CHECK(data.samples[1].image == place.folder / "set/two/1.jpg");

  place.add("parts/train/one/1.jpg");
  place.add("parts/train/two/2.jpg");
  place.add("parts/test/one/3.jpg");
  place.add("parts/test/two/4.jpg");
  request.path = place.folder / "parts";
  data = load_dataset(request);
  CHECK(ids(data) == std::vector<std::string>{"test/one/3.jpg", "test/two/4.jpg"});
  CHECK(data.class_names == std::vector<std::string>{"one", "two"});

  fs::create_directory(place.folder / "bare");
  request.path = place.folder / "bare";
  check_refusal(request, ErrorCode::kNotFound, {"bare", "labels.csv"});
}

}  // namespace vlmzoo::app
