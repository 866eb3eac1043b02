#include "zoo/zoo.hpp"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support.hpp"
#include "vlmzoo/config.hpp"
#include "vlmzoo/files.hpp"

// The zoo file and its history as a library: no model is loaded here.
namespace vlmzoo::test {
namespace {

namespace fs = std::filesystem;
using namespace app;

const std::string kZoo =
    "# Who answers.\r\n"
    "\"active\" :  'small'   # until the new one is proven \t \r\n"
    "\r\n"
    "models:   # relative to this file\r\n"
    "  small: small.yaml\r\n"
    "  large: /elsewhere/large.yaml  \r\n"
    "  \"7\": seven.yaml\r\n";

/// A folder with a zoo file in it.
struct Place {
  TemporaryFolder folder;
  fs::path file = folder / "zoo.yaml";

  explicit Place(const std::string& text = kZoo) { write_file(file, text); }

  fs::path history_file() const { return history_path(file); }
  std::string active() const { return read_zoo(file).active; }
  History history() const { return read_history(history_file(), active()); }
  std::optional<Record> switch_to(const std::string& name) const { return switch_model(file, name, "", {}); }
  std::optional<Record> back(std::optional<std::int64_t> to = std::nullopt) const {
    return roll_back(file, to, "", {});
  }
  std::vector<std::string> statuses() const {
    std::vector<std::string> result;
    for (const RecordStatus status : history().status) result.push_back(to_string(status));
    return result;
  }
};

using Words = std::vector<std::string>;

Change change_to(const std::string& name) { return {"switch", name, "", {}, "", {}, {}, {}}; }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

std::string message_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Runs `work` in a process of its own; its exit code, or 1000 and the signal that ended it.
int in_child(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
    } catch (const Error&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// Writes beyond `bytes` of any file fail, as on a full disk.
void limit_file_size(rlim_t bytes) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{bytes, bytes};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

}  // namespace

TEST_CASE("a zoo file names configurations beside it, and the active one") {
  const Place place;
  const Zoo zoo = read_zoo(place.file);
  CHECK(zoo.active == "small");
  CHECK(zoo.names() == Words{"small", "large", "7"});
  CHECK(zoo.config("small") == fs::canonical(place.folder.path()) / "small.yaml");
  CHECK(zoo.config("large") == "/elsewhere/large.yaml");
}

TEST_CASE("the demo's zoo file names the two demo models, whose configurations are there") {
  const Zoo zoo = read_zoo(fs::path(VLMZOO_TEST_DATA).parent_path() / "configs" / "demo" / "zoo.yaml");
  CHECK(zoo.active == "internvl");
  CHECK(zoo.names() == Words{"internvl", "llama_vision"});
  for (const auto& [name, config] : zoo.models) CHECK_NOTHROW(load_config(config));
}

TEST_CASE("a zoo file that can't be right is refused with file, line and what is expected") {
  const auto refused = [](const std::string& text, const Words& parts) {
    CAPTURE(text);
    const Place place(text);
    const std::string message = message_of([&] { read_zoo(place.file); });
    CAPTURE(message);
    CHECK(code_of([&] { read_zoo(place.file); }) == ErrorCode::kConfig);
    CHECK(contains(message, "zoo.yaml:"));
    for (const std::string& part : parts) CHECK(contains(message, part));
  };
  refused("", {"active", "models"});
  refused("active: a\n", {"'models' is missing"});
  refused("models: {a: a.yaml}\n", {"'active' is missing"});
  refused("active: a\nmodels: {}\n", {":2", "models must be a map"});
  refused("active: a\nmodels: [a]\n", {"models must be a map"});
  refused("active: a\nmodells: {a: a.yaml}\n", {":2", "unknown key 'modells'; did you mean 'models'?"});
  refused("active: a\nactive: b\nmodels: {a: a.yaml}\n", {":2", "duplicate key 'active'"});
  refused("active: larg\nmodels: {small: a.yaml, large: b.yaml}\n",
          {":1", "no model 'larg'", "did you mean 'large'?", "small, large"});
  refused("active: a\nmodels: {a: }\n", {"models.a must be text"});
  refused("active: a\nmodels: {a: \"\"}\n", {"models.a must be the path"});
  refused("active: [a]\nmodels: {a: a.yaml}\n", {"active must be text"});
  refused("active: a\nmodels: {a: a.yaml, \"b\\nc\": b.yaml}\n", {"can't be the name"});
  refused("active: a\nmodels: {a: &x a.yaml}\n", {"anchors"});
  refused("active: a: b\nmodels: {a: a.yaml}\n", {":1", "not valid YAML"});
  const TemporaryFolder folder;
  CHECK(code_of([&] { read_zoo(folder / "none.yaml"); }) == ErrorCode::kNotFound);
  CHECK(code_of([&] { read_zoo(folder.path()); }) == ErrorCode::kIo);
}

TEST_CASE("a switch changes the value of active and no other byte") {
  const Place place;
  REQUIRE(place.switch_to("large"));
  CHECK(read_file(place.file) == replaced(kZoo, "'small'", "'large'"));
  REQUIRE(place.switch_to("7"));
  CHECK(read_file(place.file) == replaced(kZoo, "'small'", "'7'"));
  REQUIRE(place.back(0));
  CHECK(read_file(place.file) == kZoo);
}

TEST_CASE("a name that YAML would read otherwise is written in quotes") {
  const std::string models = "\nmodels: {a: a.yaml, true: c.yaml, \"x: y #z\": d.yaml}";
  CHECK(with_active("active: a" + models, "z", "true") == "active: \"true\"" + models);
  CHECK(with_active("active: a # c" + models, "z", "x: y #z") == "active: \"x: y #z\" # c" + models);
  CHECK(with_active("active: \"x: y #z\"" + models, "z", "a") == "active: \"a\"" + models);
  CHECK(with_active("\xEF\xBB\xBF"
                    "active: a" +
                        models,
                    "z", "true") ==
        "\xEF\xBB\xBF"
        "active: \"true\"" +
            models);
}

TEST_CASE("an active value that isn't on the line of its key is refused, not guessed at") {
  for (const char* text :
       {"{active: a, models: {a: a.yaml, b: b.yaml}}", "active:\n  a\nmodels: {a: a.yaml, b: b.yaml}",
        "active: |-\n  a\nmodels: {a: a.yaml, b: b.yaml}"}) {
    CAPTURE(text);
    const Place place(text);
    CHECK(place.active() == "a");
    const std::string message = message_of([&] { place.switch_to("b"); });
    CHECK(contains(message, "on a line of its own"));
    CHECK(read_file(place.file) == text);
    CHECK_FALSE(fs::exists(place.history_file()));
  }
}

TEST_CASE("an unknown name is told with those that there are; the active one changes nothing") {
  const Place place;
  const std::string message = message_of([&] { place.switch_to("larg"); });
  CHECK(contains(message, "did you mean 'large'?"));
  CHECK(contains(message, "small, large, 7"));
  CHECK_FALSE(place.switch_to("small"));
  CHECK_FALSE(fs::exists(place.history_file()));
}

TEST_CASE("the record tells who switched when, from what to what, why, and what the probe said") {
  const Place place;
  const Probe probe = [&](const fs::path& config) {
    CHECK(config == "/elsewhere/large.yaml");
    return OrderedJson{{"label", "one"}};
  };
  const auto record = switch_model(place.file, "large", "better on \"small\" print", probe);
  REQUIRE(record);
  const History history = place.history();
  REQUIRE(history.records.size() == 1);
  const Record& read = history.records[0];
  CHECK(read.n == 1);
  CHECK(read.action == "switch");
  CHECK(read.from == "small");
  CHECK(read.to == "large");
  CHECK(read.reason == "better on \"small\" print");
  CHECK(read.probe == OrderedJson{{"label", "one"}});
  CHECK_FALSE(read.user.empty());
  CHECK_FALSE(read.host.empty());
  CHECK(read.time.size() == std::string("2026-11-24T18:40:02Z").size());
  CHECK(read.time.ends_with("Z"));
  CHECK(read.zoo_sha256 == sha256_of_file(place.file));
  CHECK(place.statuses() == Words{"completed"});
}

TEST_CASE("a model that fails when it is tried is recorded as failed and the old one stays") {
  const Place place;
  const auto failing = [&](const std::function<void()>& fail) {
    return [&place, fail] {
      switch_model(place.file, "large", "", [fail](const fs::path&) -> OrderedJson {
        fail();
        return {};
      });
    };
  };
  const auto own = failing([] { throw Error(ErrorCode::kConfig, "large.yaml:3: unknown key"); });
  CHECK(code_of(own) == ErrorCode::kMismatch);  // the command line and the zoo file are right: exit code 1, not 2
  CHECK(contains(message_of(own), "'small' stays active: large.yaml:3: unknown key"));
  CHECK(code_of(failing([] { throw std::runtime_error("plugin trouble"); })) == ErrorCode::kInternal);
  CHECK(code_of(failing([] { throw std::bad_alloc(); })) == ErrorCode::kMemory);
  CHECK(place.statuses() == Words{"failed", "failed", "failed", "failed"});
  CHECK(contains(place.history().records[2].error, "plugin trouble"));
  CHECK(read_file(place.file) == kZoo);
  CHECK(code_of(failing([] { throw Error(ErrorCode::kInterrupted, "Ctrl-C"); })) == ErrorCode::kInterrupted);
  CHECK(place.statuses().size() == 4);
  CHECK(code_of([&] { place.back(); }) == ErrorCode::kNotFound);
}

TEST_CASE("rollback undoes one switch after the other, and says when none is left") {
  const Place place;
  CHECK(contains(message_of([&] { place.back(); }), "nothing to roll back to"));
  place.switch_to("large");
  place.switch_to("7");
  CHECK(place.back()->to == "large");
  CHECK(place.back()->to == "small");
  CHECK(code_of([&] { place.back(); }) == ErrorCode::kNotFound);
  CHECK(place.back(2)->to == "7");     // to where record 2 led
  CHECK(place.back()->to == "large");  // what was active before that switch
  place.switch_to("small");
  CHECK(place.back()->to == "large");
  CHECK_FALSE(place.back(1));  // large is active already
  CHECK(contains(message_of([&] { place.back(99); }), "no record 99; they go from 1 to 8"));
  CHECK(place.active() == "large");
  CHECK(place.statuses() == Words(8, "completed"));
}

TEST_CASE("rollback tells when the active line was edited by hand, or the model is gone") {
  const Place place;
  place.switch_to("large");
  place.switch_to("7");
  write_file(place.file, replaced(read_file(place.file), "'7'", "'small'"));
  CHECK(place.statuses() == Words{"completed", "not_completed"});
  CHECK(code_of([&] { place.back(); }) == ErrorCode::kMismatch);
  CHECK(contains(message_of([&] { place.back(2); }), "changed by hand (from 'large' or '7' to 'small')"));
  CHECK(place.back(1)->to == "large");
  write_file(place.file, replaced(read_file(place.file), "  small: small.yaml\r\n", ""));
  CHECK(contains(message_of([&] { place.back(0); }), "no model 'small'"));
  CHECK(place.active() == "large");
}

TEST_CASE("a symbolic link stays one: the file behind it changes, and the history lies beside that") {
  const Place place;
  const TemporaryFolder elsewhere;
  fs::create_symlink(place.file, elsewhere / "link.yaml");
  CHECK(switch_model(elsewhere / "link.yaml", "large", "", {}));
  CHECK(fs::is_symlink(elsewhere / "link.yaml"));
  CHECK(place.active() == "large");
  CHECK(fs::exists(place.history_file()));
  CHECK(std::distance(fs::directory_iterator(elsewhere.path()), fs::directory_iterator()) == 1);
}

TEST_CASE("a broken line of the history is an error with its place, and nothing is changed") {
  const auto refused = [](const std::string& line, const std::string& why) {
    CAPTURE(line);
    const Place place;
    place.switch_to("large");
    const std::string before = read_file(place.file), history = read_file(place.history_file()) + line + "\n";
    write_file(place.history_file(), history);
    for (const auto& action : std::vector<std::function<void()>>{
             [&] { place.history(); }, [&] { place.switch_to("7"); }, [&] { place.back(); }}) {
      const std::string message = message_of(action);
      CAPTURE(message);
      CHECK(code_of(action) == ErrorCode::kCorrupt);
      CHECK(contains(message, "zoo.yaml.history.jsonl:2: "));
      CHECK(contains(message, why));
      CHECK(contains(message, "correct or delete this line"));
    }
    CHECK(read_file(place.file) == before);
    CHECK(read_file(place.history_file()) == history);
  };
  refused("{\"n\": 2, \"time\": ", "not valid JSON");
  refused("", "not valid JSON");
  refused("{}", "n");
  refused("{\"n\": \"2\", \"time\": \"\", \"action\": \"switch\", \"from\": \"a\", \"to\": \"b\"}", "number");
  refused("{\"n\": 1, \"time\": \"\", \"action\": \"switch\", \"from\": \"a\", \"to\": \"b\"}", "n is 1");
  refused("{\"n\": 2, \"time\": \"\", \"action\": \"dance\", \"from\": \"a\", \"to\": \"b\"}", "dance");
  refused("{\"n\": 2, \"time\": \"\", \"action\": \"rollback\", \"from\": \"a\", \"to\": \"b\", \"restores\": 2}",
          "restores is 2");
}

TEST_CASE("an incomplete last line, as a crash leaves it, stops neither switch nor rollback and is removed") {
  for (const bool back : {false, true}) {
    const Place place;
    place.switch_to("large");
    const std::string whole = read_file(place.history_file());
    for (const std::size_t length : {std::size_t{1}, whole.size() / 2, whole.size() - 2}) {
      write_file(place.history_file(), read_file(place.history_file()) + whole.substr(0, length));
      const History torn = place.history();
      CHECK(torn.torn == whole.substr(0, length));
      CHECK(contains(torn.torn_message(), fmt::format("history.jsonl:{}: ", torn.records.size() + 1)));
      CHECK((back ? place.back(place.active() == "large" ? 0 : 1)
                  : place.switch_to(place.active() == "large" ? "small" : "large")));
      CHECK(place.history().torn.empty());
      CHECK(place.history().records.size() == torn.records.size() + 1);
    }
  }
}

TEST_CASE("a last line that lacks only its newline is a record") {
  const Place place;
  place.switch_to("large");
  std::string text = read_file(place.history_file());
  text.pop_back();
  write_file(place.history_file(), text);
  CHECK(place.history().records.size() == 1);
  CHECK(place.history().torn.empty());
  place.switch_to("7");
  CHECK(place.history().records.size() == 2);
}

TEST_CASE("a process that dies between two steps leaves the old file or the new one, and a history that tells which") {
  for (const ChangeStep step : {ChangeStep::kPrepared, ChangeStep::kRecorded, ChangeStep::kReplaced}) {
    CAPTURE(static_cast<int>(step));
    const Place place;
    place.switch_to("7");
    const std::string before = read_file(place.file);
    const int code = in_child([&] {
      set_active(place.file, change_to("large"), [&](ChangeStep done) {
        if (done == step) ::kill(::getpid(), SIGKILL);
      });
    });
    CHECK(code == 1000 + SIGKILL);
    if (step == ChangeStep::kReplaced) {
      CHECK(place.active() == "large");
      CHECK(place.statuses() == Words{"completed", "completed"});
    } else {
      CHECK(read_file(place.file) == before);
      CHECK(place.statuses() ==
            (step == ChangeStep::kPrepared ? Words{"completed"} : Words{"completed", "not_completed"}));
    }
    // The lock died with the process, and going on works.
    const std::string expected = step == ChangeStep::kReplaced ? "7" : "small";
    CHECK(place.back()->to == expected);
    CHECK(place.active() == expected);
    CHECK(place.switch_to("large"));
    CHECK(place.statuses().back() == "completed");
  }
}

TEST_CASE("an exception between two steps leaves no other file behind") {
  const Place place;
  for (const ChangeStep step : {ChangeStep::kPrepared, ChangeStep::kRecorded}) {
    CHECK_THROWS_AS(set_active(place.file, change_to("large"),
                               [&](ChangeStep done) {
                                 if (done == step) throw std::runtime_error("stop");
                               }),
                    std::runtime_error);
    CHECK(read_file(place.file) == kZoo);
    // Without a record there is no history; with one there is.
    CHECK(std::distance(fs::directory_iterator(place.folder.path()), fs::directory_iterator()) ==
          (step == ChangeStep::kPrepared ? 1 : 2));
  }
}

TEST_CASE("a full disk ends a switch at either file with the zoo file and the records as they were") {
  // Room for nothing; for the zoo file alone; for both.
  const Place probe;
  probe.switch_to("large");
  const rlim_t zoo = kZoo.size() + 10, one_record = fs::file_size(probe.history_file());
  REQUIRE(one_record > zoo);
  for (const rlim_t room : {rlim_t{0}, zoo, one_record + 1}) {
    CAPTURE(room);
    const Place place;
    place.switch_to("7");
    const std::string before = read_file(place.file), history = read_file(place.history_file());
    CHECK(in_child([&] {
            limit_file_size(room);
            place.switch_to("large");
          }) == 1);
    CHECK(read_file(place.file) == before);
    CHECK(read_file(place.history_file()) == history);
    CHECK(std::distance(fs::directory_iterator(place.folder.path()), fs::directory_iterator()) == 2);
  }
}

TEST_CASE("a history that can't be written to ends a switch before the zoo file changes") {
  const Place place;
  fs::create_directory(place.history_file());
  const std::string message = message_of([&] { set_active(place.file, change_to("large")); });
  CHECK(contains(message, "zoo.yaml.history.jsonl"));
  CHECK(contains(message, "the zoo file is unchanged"));
  CHECK(read_file(place.file) == kZoo);
}

TEST_CASE("a file that changed while the model was tried is told, not overwritten") {
  const Place place;
  place.switch_to("large");
  const auto meanwhile = [&](const std::function<void()>& work) {
    return [work](const fs::path&) {
      work();
      return OrderedJson();
    };
  };
  const std::string moved = replaced(read_file(place.file), "seven.yaml", "eight.yaml");
  CHECK(code_of([&] { switch_model(place.file, "7", "", meanwhile([&] { write_file(place.file, moved); })); }) ==
        ErrorCode::kMismatch);
  CHECK(read_file(place.file) == moved);
  CHECK(code_of([&] { roll_back(place.file, {}, "", meanwhile([&] { place.switch_to("7"); })); }) ==
        ErrorCode::kMismatch);
  CHECK(place.active() == "7");
  // A switch wins over another one's in between, and the records tell so.
  CHECK(switch_model(place.file, "small", "", meanwhile([&] { place.switch_to("large"); }))->from == "large");
  CHECK(place.statuses() == Words(4, "completed"));
}

TEST_CASE("processes that switch at once take turns: every record counts and the file is whole at any time") {
  const Place place("active: a\nmodels: {a: a.yaml, b: b.yaml, c: c.yaml, d: d.yaml}\n");
  constexpr int kProcesses = 4, kRounds = 25;
  const Words names = {"a", "b", "c", "d"};
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    const pid_t child = ::fork();
    if (child == 0) {
      int code = 0;
      try {
        for (int i = 0; i < kRounds; ++i) place.switch_to(names[static_cast<std::size_t>(process + i) % names.size()]);
      } catch (const Error&) {
        code = 1;
      }
      ::_exit(code);
    }
    children.push_back(child);
  }
  int running = kProcesses, failed = 0, reads = 0;
  while (running > 0) {
    CHECK_NOTHROW(read_zoo(place.file));
    ++reads;
    ::usleep(500);
    int status = 0;
    if (::waitpid(-1, &status, WNOHANG) > 0) {
      --running;
      failed += status != 0;
    }
  }
  CHECK(failed == 0);
  CHECK(reads > 0);
  const History history = place.history();
  REQUIRE(history.records.size() >= kRounds);
  std::string active = "a";
  for (std::size_t i = 0; i < history.records.size(); ++i) {
    CHECK(history.records[i].n == static_cast<std::int64_t>(i) + 1);
    CHECK(history.records[i].from == active);
    active = history.records[i].to;
    CHECK(history.status[i] == RecordStatus::kCompleted);
  }
  CHECK(place.active() == active);
  CHECK(std::distance(fs::directory_iterator(place.folder.path()), fs::directory_iterator()) == 2);
}

}  // namespace vlmzoo::test
