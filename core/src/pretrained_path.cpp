#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "shortened.hpp"
#include "vlmzoo/checkpoint.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/files.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path with_home(const std::string& path) {
  const std::string home = environment("HOME");
  if (home.empty() || (path != "~" && !path.starts_with("~/"))) return path;
  return home + path.substr(1);
}

/// As huggingface_hub finds it; empty when there is no home folder.
fs::path hub_cache() {
  if (const std::string cache = environment("HF_HUB_CACHE"); !cache.empty()) return with_home(cache);
  if (const std::string home = environment("HF_HOME"); !home.empty()) return with_home(home) / "hub";
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) {
    return with_home(cache) / "huggingface" / "hub";
  }
  const std::string home = environment("HOME");
  return home.empty() ? fs::path() : fs::path(home) / ".cache" / "huggingface" / "hub";
}

/// "org/name" in the characters the hub allows: nothing that could lead out of the cache.
bool is_hub_name(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == text.npos || slash == 0 || slash + 1 == text.size() || text[0] == '.' || text[slash + 1] == '.')
    return false;
  return std::ranges::count(text, '/') == 1 && std::ranges::all_of(text, [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '/';
         });
}

/// The commit that refs/main names, when its snapshot is there.
std::optional<fs::path> main_snapshot(const fs::path& model) {
  std::error_code ignored;
  if (!fs::exists(model / "refs" / "main", ignored)) return std::nullopt;
  std::string commit = read_file(model / "refs" / "main", /*limit=*/4096);
  commit.erase(commit.find_last_not_of(" \t\r\n") + 1);
  const bool plain =
      !commit.empty() && std::ranges::all_of(commit, [](unsigned char c) { return std::isalnum(c) != 0; });
  const fs::path snapshot = model / "snapshots" / commit;
  if (!plain || !fs::is_directory(snapshot, ignored)) return std::nullopt;
  return snapshot;
}

fs::path snapshot_of(const fs::path& model, const std::string& name) {
  if (const auto snapshot = main_snapshot(model)) return *snapshot;
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator entry(model / "snapshots", error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) found.push_back(entry->path().string());
  }
  if (found.size() == 1) return found[0];
  std::ranges::sort(found);
  std::string what = fmt::format(
      "Model path does not exist: {} is in the hub cache ({}), but refs/main names no snapshot that is there", name,
      model.string());
  what += found.empty() ? " and there is no other; download it again" : "; give the one you mean as the path:";
  for (const std::string& snapshot : found) what += "\n  " + snapshot;
  throw Error(ErrorCode::kNotFound, what);
}

}  // namespace

fs::path resolve_pretrained_path(const std::string& pretrained_path) {
  if (pretrained_path.empty()) throw Error(ErrorCode::kNotFound, "Model path does not exist: it is empty");
  const fs::path path = with_home(pretrained_path);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return path;
  const std::string shown = shortened(pretrained_path, 4096);
  if (fs::exists(path, ignored)) {
    throw Error(ErrorCode::kNotFound, fmt::format("Model path is a file, expected the folder of the model: {}", shown));
  }
  std::string looked_for = fmt::format("the folder {}", shortened(fs::absolute(path, ignored).string(), 4096));
  const fs::path cache = hub_cache();
  if (is_hub_name(pretrained_path) && !cache.empty()) {
    std::string folder = "models--" + pretrained_path;
    folder.replace(folder.find('/'), 1, "--");
    if (fs::is_directory(cache / folder, ignored)) return snapshot_of(cache / folder, pretrained_path);
    looked_for += fmt::format(" and, in the local hub cache, {}", (cache / folder).string());
  }
  throw Error(ErrorCode::kNotFound,
              fmt::format("Model path does not exist: {}; looked for {}; nothing is downloaded", shown, looked_for));
}

}  // namespace vlmzoo
