#include "pictures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "vlmzoo/error.hpp"

namespace vlmzoo::app {
namespace {

constexpr std::array<std::string_view, 4> kExtensions = {".png", ".jpg", ".jpeg", ".webp"};

bool is_picture(const std::filesystem::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end();
}

}  // namespace

std::vector<std::filesystem::path> collect_pictures(std::span<const std::string> arguments) {
  std::vector<std::filesystem::path> result;
  for (const std::string& argument : arguments) {
    const std::filesystem::path path = argument;
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) {
      throw Error(ErrorCode::kNotFound, fmt::format("picture or folder does not exist: {}", argument));
    }
    if (!std::filesystem::is_directory(status)) {
      result.push_back(path);
      continue;
    }
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (is_picture(entry.path()) && !entry.is_directory()) found.push_back(entry.path());
    }
    if (found.empty()) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: no pictures (*.png, *.jpg, *.jpeg, *.webp) in this folder", argument));
    }
    std::sort(found.begin(), found.end());
    result.insert(result.end(), found.begin(), found.end());
  }
  return result;
}

bool is_fault_of_picture(ErrorCode code) {
  return code == ErrorCode::kNotFound || code == ErrorCode::kIo || code == ErrorCode::kUnsupported ||
         code == ErrorCode::kCorrupt || code == ErrorCode::kMemory;
}

std::vector<Image> load_images(std::span<const std::string> files) {
  std::vector<Image> result;
  for (const std::string& file : files) result.push_back(load_image(file));
  return result;
}

}  // namespace vlmzoo::app
