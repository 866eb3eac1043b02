#include "training/run_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <sstream>
#include <system_error>
#include <utility>

#include "output_folder.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"
#include "vlmzoo/json.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo::app {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCheckpoint = "checkpoint.safetensors";
constexpr const char* kBest = "best.safetensors";
constexpr const char* kMetrics = "metrics.jsonl";
constexpr const char* kConfig = "config.yaml";
constexpr const char* kFiles[] = {kCheckpoint,        kBest,
                                  kMetrics,           kConfig,
                                  RunFolder::kHead,   RunFolder::kTrained,
                                  RunFolder::kReport, RunFolder::kPredictions};

/// "model.seed" -> "0" of the YAML that core writes: one key per line, sections by indentation.
std::map<std::string, std::string> flatten(const std::string& yaml) {
  std::map<std::string, std::string> values;
  std::vector<std::string> sections;
  std::istringstream lines(yaml);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t indent = line.find_first_not_of(' '), colon = line.find(": ");
    if (indent == std::string::npos) continue;
    sections.resize(indent / 2);
    if (colon == std::string::npos) {
      sections.push_back(line.substr(indent, line.size() - indent - 1));
      continue;
    }
    std::string path;
    for (const std::string& section : sections) path += section + ".";
    values[path + line.substr(indent, colon - indent)] = line.substr(colon + 2);
  }
  return values;
}

/// Those that only say what is told, or how often something is written.
bool matters(const std::string& key) {
  return !key.starts_with("generation.") && key != "training.logging_steps" && key != "training.save_steps";
}

/// Finite numbers, which JSON keeps to the bit.
OrderedJson to_json(const LogWindow& window) {
  OrderedJson json = {{"loss", window.loss.total},
                      {"gradient_norm", window.gradient_norm},
                      {"learning_rate", window.learning_rate},
                      {"seconds", window.seconds},
                      {"waited", window.waited},
                      {"steps", window.steps},
                      {"language_steps", window.language_steps},
                      {"pictures", window.pictures}};
  const auto part = [&](const char* key, const std::optional<double>& value) {
    if (value) json[key] = *value;
  };
  part("classification_loss", window.loss.classification);
  part("language_loss", window.loss.language);
  part("region_loss", window.loss.region);
  return json;
}

constexpr std::int64_t kMost = std::int64_t{1} << 60;

LogWindow parse_window(const JsonView& view) {
  const auto part = [&](const char* key) { return view.has(key) ? std::optional(view.number(key)) : std::nullopt; };
  LogWindow window;
  window.loss = {view.number("loss"), part("classification_loss"), part("language_loss"), part("region_loss")};
  window.gradient_norm = view.number("gradient_norm");
  window.learning_rate = view.number("learning_rate");
  window.seconds = view.number("seconds");
  window.waited = view.number("waited");
  window.steps = view.integer("steps", 0, kMost);
  window.language_steps = view.integer("language_steps", 0, kMost);
  window.pictures = view.integer("pictures", 0, kMost);
  return window;
}

std::string text_of(const RunState& state) {
  const EarlyStopping& stopping = state.stopping;
  return OrderedJson({{"step", state.step},
                      {"evaluated_step", state.evaluated_step},
                      {"round", stopping.round},
                      {"best_round", stopping.best_round},
                      {"best", stopping.best},
                      {"best_loss", state.best_loss},
                      {"window", to_json(state.window)},
                      {"done", state.done}})
      .dump();
}

RunState parse_state(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  const JsonView view(json, where);
  RunState state;
  state.step = view.integer("step", 0, kMost);
  state.evaluated_step = view.integer("evaluated_step", 0, kMost);
  state.stopping.round = view.integer("round", 0, kMost);
  state.stopping.best_round = view.integer("best_round", -1, kMost);
  state.stopping.best = view.number("best");
  state.best_loss = view.number("best_loss");
  state.window = parse_window(view.child("window"));
  state.done = view.boolean("done");
  return state;
}

/// What a save that was killed left behind, under the names of AtomicFile and OutputFolder.
void remove_leftovers(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const auto is_of = [&](const char* result) { return name.starts_with(fmt::format(".{}.", result)); };
    if ((name.ends_with(".tmp") || name.ends_with(".old")) &&
        (std::ranges::any_of(kFiles, is_of) || is_of(RunFolder::kModel)))
      fs::remove_all(entry.path(), error);
  }
}

/// The folder, locked while the result lives; null where the file system has no locks.
std::shared_ptr<const void> locked(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw Error(ErrorCode::kIo, fmt::format("cannot open {}: {}", folder.string(), std::strerror(errno)));
  }
  const int error = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  if (error == 0) {
    return std::shared_ptr<const int>(new int(descriptor), [](const int* held) {
      ::close(*held);
      delete held;
    });
  }
  ::close(descriptor);
  if (error == EWOULDBLOCK) {
    throw Error(ErrorCode::kUsage,
                fmt::format("another process trains in {}; wait for it, or name another folder", folder.string()));
  }
  return nullptr;
}

}  // namespace

std::vector<std::string> training_differences(const std::string& before, const std::string& now) {
  std::map<std::string, std::string> a = flatten(before), b = flatten(now);
  for (auto* keys : {&a, &b}) std::erase_if(*keys, [](const auto& key) { return key.second == "null"; });
  std::vector<std::string> result;
  for (const auto& [key, value] : b) {
    const auto found = a.find(key);
    if (matters(key) && (found == a.end() || found->second != value)) {
      result.push_back(fmt::format("{} ({} then, {} now)", key, found == a.end() ? "not there" : found->second, value));
    }
  }
  for (const auto& [key, value] : a) {
    if (matters(key) && !b.contains(key)) result.push_back(fmt::format("{} ({} then, not there now)", key, value));
  }
  return result;
}

RunFolder::RunFolder(fs::path path, std::string data)
    : path_(std::move(path)), data_(std::move(data)), lock_(locked(path_)) {
  if (lock_ != nullptr) remove_leftovers(path_);
}

RunFolder RunFolder::create(const fs::path& path, bool force, const std::string& config, const std::string& data) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error)) {
    throw Error(ErrorCode::kIo, fmt::format("{} exists and is no folder", path.string()));
  }
  const fs::path parent = fs::absolute(path).parent_path();
  if (!fs::exists(path, error) && !fs::is_directory(parent, error)) {
    throw Error(ErrorCode::kNotFound, fmt::format("folder does not exist: {}", parent.string()));
  }
  if (!fs::create_directory(path, error) && error) {
    throw Error(ErrorCode::kIo, fmt::format("cannot create {}: {}", path.string(), error.message()));
  }
  RunFolder folder(path, data);
  // Made first and together, so that nothing else is taken for a run.
  const bool run = fs::exists(path / kConfig, error) && fs::exists(path / kMetrics, error);
  if (!run && fs::exists(path / kMetrics, error) && fs::file_size(path / kMetrics, error) == 0) {
    fs::remove(path / kMetrics, error);  // of a start that was killed
  }
  if (!force && run) {
    throw Error(ErrorCode::kUsage,
                fmt::format("{} holds a training run; --resume goes on with it, --force begins anew", path.string()));
  }
  const bool empty = fs::is_empty(path, error);
  if (error) throw Error(ErrorCode::kIo, fmt::format("cannot read {}: {}", path.string(), error.message()));
  if (!force && !empty) {
    throw Error(ErrorCode::kUsage, fmt::format("{} exists and is not empty; name another folder (--force writes the "
                                               "run's files beside what is there)",
                                               path.string()));
  }
  if (!run) {
    std::vector<std::string> names(std::begin(kFiles), std::end(kFiles));
    names.emplace_back(kModel);
    for (const std::string& name : names) {
      if (!fs::exists(path / name, error)) continue;
      throw Error(ErrorCode::kUsage, fmt::format("{} is not of a training run, and a run would replace it; name "
                                                 "another folder",
                                                 (path / name).string()));
    }
  }
  if (fs::exists(path / kModel, error)) {
    check_replaceable(path / kModel, kCheckpointFolder);
    fs::remove_all(path / kModel, error);
  }
  for (const char* name : kFiles) {
    if (!error) fs::remove(path / name, error);
  }
  if (error) throw Error(ErrorCode::kIo, fmt::format("cannot empty {}: {}", path.string(), error.message()));
  write_file(path / kMetrics, "");
  write_file(path / kConfig, config);
  return folder;
}

RunFolder RunFolder::open(const fs::path& path, const std::string& config, const std::string& data) {
  std::error_code error;
  if (!fs::exists(path / kConfig, error)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{} holds no training run to resume (no {} in it)", path.string(), kConfig));
  }
  const std::vector<std::string> differences = training_differences(read_file(path / kConfig), config);
  if (!differences.empty()) {
    throw Error(ErrorCode::kConfig,
                fmt::format("{} was begun with another configuration; these keys differ:\n  {}\nresume it with its own "
                            "({}), or begin a new run",
                            path.string(), fmt::join(differences, "\n  "), (path / kConfig).string()));
  }
  RunFolder folder(path, data);
  if (fs::exists(path / kModel, error)) check_replaceable(path / kModel, kCheckpointFolder);
  if (!folder.has_checkpoint()) folder.cut_metrics(0);  // ended before its first checkpoint: begins at step 1 again
  return folder;
}

bool RunFolder::has_checkpoint() const { return fs::exists(path_ / kCheckpoint); }
bool RunFolder::has_best() const { return fs::exists(path_ / kBest); }

void RunFolder::save(const RunState& state, std::span<const NamedTensor> tensors) const {
  write_tensors(path_ / kCheckpoint, tensors, {{"vlmzoo_run", text_of(state)}, {"data", data_}});
}

RunState RunFolder::load(std::span<const NamedTensor> tensors) const {
  const fs::path file = path_ / kCheckpoint;
  const std::map<std::string, std::string> metadata = SafetensorsFile(file).metadata();
  const auto state = metadata.find("vlmzoo_run"), data = metadata.find("data");
  if (state == metadata.end() || data == metadata.end()) {
    throw Error(ErrorCode::kCorrupt, fmt::format("{}: not the checkpoint of a training run", file.string()));
  }
  if (data->second != data_) {
    throw Error(ErrorCode::kMismatch, fmt::format("{} was begun on other data (samples, labels or answers differ); "
                                                  "resume it with the same --data, or begin a new run",
                                                  path_.string()));
  }
  copy_tensors(file.string(), tensors, read_tensors(file));
  const RunState result = parse_state(state->second, file.string());
  cut_metrics(result.step);
  return result;
}

void RunFolder::save_best(std::span<const NamedTensor> tensors) const { write_tensors(path_ / kBest, tensors); }

void RunFolder::load_best(std::span<const NamedTensor> tensors) const {
  copy_tensors((path_ / kBest).string(), tensors, read_tensors(path_ / kBest));
}

void RunFolder::log(const OrderedJson& line) const {
  const fs::path file = path_ / kMetrics;
  const std::string text = line.dump() + "\n";
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  const bool written = descriptor >= 0 && ::write(descriptor, text.data(), text.size()) == std::ssize(text);
  const int error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (!written) {
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {}", file.string(),
                                            descriptor >= 0 && error == 0 ? "disk full" : std::strerror(error)));
  }
}

std::vector<OrderedJson> RunFolder::metrics() const {
  std::vector<OrderedJson> result;
  if (!fs::exists(path_ / kMetrics)) return result;
  std::istringstream lines(read_file(path_ / kMetrics));
  for (std::string line; std::getline(lines, line);) {
    OrderedJson json = OrderedJson::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("step") && json["step"].is_number_integer())
      result.push_back(std::move(json));
  }
  return result;
}

/// What was logged behind the checkpoint will be logged again.
void RunFolder::cut_metrics(std::int64_t step) const {
  std::string kept;
  for (const OrderedJson& line : metrics()) {
    if (line["step"].get<std::int64_t>() <= step) kept += line.dump() + "\n";
  }
  write_file(path_ / kMetrics, kept);
}

}  // namespace vlmzoo::app
