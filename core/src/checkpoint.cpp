#include "vlmzoo/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/json.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr std::size_t kNamesInMessage = 20;

/// Also true for a link that leads nowhere: opening it then says so, which is better than "not there".
bool there(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kNamesInMessage); ++i) {
    text += fmt::format("{}'{}'", i == 0 ? "" : ", ", shortened(names[i]));
  }
  if (names.size() > kNamesInMessage) text += fmt::format(" and {} more", names.size() - kNamesInMessage);
  return text;
}

[[noreturn]] void no_weights(const fs::path& folder) {
  std::string what = fmt::format("{}: neither {} nor {} in this folder", folder.string(), kSingleFile, kIndexFile);
  if (there(folder / "pytorch_model.bin") || there(folder / "pytorch_model.bin.index.json")) {
    what += "; pytorch_model.bin is a pickle, which is not read: download the safetensors version or convert it";
  }
  throw Error(ErrorCode::kNotFound, what);
}

[[noreturn]] void corrupt(const fs::path& index, const std::string& what) {
  throw Error(ErrorCode::kCorrupt, fmt::format("{}: {}", index.string(), what));
}

/// file -> tensors, from the index. Only the names in it are judged: in a hub snapshot every file is a link elsewhere.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const Json index = read_json(path);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) corrupt(path, "weight_map is missing or not an object");
  std::map<std::string, std::vector<std::string>> files;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) corrupt(path, fmt::format("the file of tensor '{}' is not a text", shortened(tensor)));
    const auto& name = file.get_ref<const std::string&>();
    const bool plain =
        !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\0", 2)) == name.npos;
    if (!plain) {
      corrupt(path, fmt::format("tensor '{}' is said to be in '{}', expected the name of a file in the same folder",
                                shortened(tensor), shortened(name)));
    }
    files[name].push_back(tensor);
  }
  return files;
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    throw Error(ErrorCode::kNotFound, fmt::format("Model path does not exist: {} is not a folder", folder.string()));
  }
  if (there(folder / kSingleFile)) {
    files_.emplace_back(folder / kSingleFile);
    for (const TensorEntry& entry : files_[0].entries()) index_.emplace(entry.name, std::pair(0, &entry));
    return;
  }
  const fs::path index_path = folder / kIndexFile;
  if (!there(index_path)) no_weights(folder);
  const auto files = read_index(index_path);

  std::vector<std::string> absent;
  for (const auto& [file, tensors] : files) {
    if (!fs::exists(folder / file, ignored)) absent.push_back(file);
  }
  if (!absent.empty()) {
    corrupt(index_path, fmt::format("{} of {} files are missing: {}; download them again", absent.size(), files.size(),
                                    listed(absent)));
  }
  for (const auto& [file, tensors] : files) {
    const SafetensorsFile& opened = files_.emplace_back(folder / file);
    std::vector<std::string> lacking;
    for (const std::string& tensor : tensors) {
      // An entry stays where it is when files_ grows: moving a file moves the vector's buffer.
      const TensorEntry* entry = opened.find(tensor);
      if (entry == nullptr) lacking.push_back(tensor);
      index_.emplace(tensor, std::pair(files_.size() - 1, entry));
    }
    if (!lacking.empty()) {
      corrupt(index_path, fmt::format("'{}' lacks {} of its {} tensors: {}", file, lacking.size(), tensors.size(),
                                      listed(lacking)));
    }
  }
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second.second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> result;
  result.reserve(index_.size());
  for (const auto& [name, place] : index_) result.push_back(name);
  return result;
}

std::uint64_t Checkpoint::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& [name, place] : index_) sum += place.second->bytes();
  return sum;
}

void Checkpoint::read(std::string_view name, std::uint64_t offset, std::span<std::byte> out) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no tensor '{}'", folder_.string(), shortened(name)));
  }
  const auto& [file, entry] = found->second;
  files_[file].read(*entry, offset, out);
}

}  // namespace vlmzoo
