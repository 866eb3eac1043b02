#include "output_folder.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

bool is_checkpoint_file(const std::filesystem::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (entry.is_symlink() || !entry.is_regular_file()) return false;
  if (name == "model.safetensors.index.json") return true;
  for (const char* known : kSmallCheckpointFiles) {
    if (name == known) return true;
  }
  return name.starts_with("model") && name.ends_with(".safetensors");
}

}  // namespace

const FolderKind kCheckpointFolder = {"a checkpoint", is_checkpoint_file};

void check_replaceable(const std::filesystem::path& folder, const FolderKind& kind) {
  if (!std::filesystem::is_directory(folder)) {
    throw Error(ErrorCode::kIo, fmt::format("{} exists and is no folder", folder.string()));
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!kind.owns(entry)) {
      throw Error(ErrorCode::kUsage, fmt::format("{} holds more than {} ({}); it is not replaced, name another folder",
                                                 folder.string(), kind.what, entry.path().filename().string()));
    }
  }
}

OutputFolder::OutputFolder(const std::filesystem::path& path, bool replace, const FolderKind& kind)
    : replace_(replace), kind_(kind) {
  // Through canonical(), so that "out/", "." and a symbolic link to a folder name the folder itself.
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  path_ = exists ? std::filesystem::canonical(path) : std::filesystem::absolute(path).lexically_normal();
  if (path_.filename().empty()) path_ = path_.parent_path();
  if (!path_.has_filename()) throw Error(ErrorCode::kIo, fmt::format("{} can't be written", path_.string()));
  if (!std::filesystem::is_directory(path_.parent_path())) {
    throw Error(ErrorCode::kNotFound, fmt::format("folder does not exist: {}", path_.parent_path().string()));
  }
  if (exists && !replace && std::filesystem::is_directory(path_) && !std::filesystem::is_empty(path_)) {
    throw Error(ErrorCode::kUsage, fmt::format("{} exists and is not empty; --force replaces it", path_.string()));
  }
  if (exists) check_replaceable(path_, kind);
  temporary_ = path_.parent_path() / fmt::format(".{}.{}.tmp", path_.filename().string(), ::getpid());
  std::filesystem::remove_all(temporary_, error);  // left behind by a process of this id that was killed
  std::filesystem::create_directory(temporary_, error);
  if (error) {
    throw Error(ErrorCode::kIo, fmt::format("cannot create {}: {}", temporary_.string(), error.message()));
  }
}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

void OutputFolder::commit() {
  // rename() replaces an empty folder; one with content has to step aside first.
  const std::filesystem::path aside =
      path_.parent_path() / fmt::format(".{}.{}.old", path_.filename().string(), ::getpid());
  std::error_code error;
  const bool moved = replace_ && std::filesystem::exists(path_);
  if (moved) {
    check_replaceable(path_, kind_);
    std::filesystem::rename(path_, aside, error);
  }
  if (!error) std::filesystem::rename(temporary_, path_, error);
  if (error) {
    std::error_code ignored;
    if (moved) std::filesystem::rename(aside, path_, ignored);
    throw Error(ErrorCode::kIo, fmt::format("cannot write {}: {}", path_.string(), error.message()));
  }
  temporary_.clear();
  if (moved) std::filesystem::remove_all(aside, error);
}

}  // namespace vlmzoo::app
