#pragma once

#include <filesystem>

namespace vlmzoo::app {

/// A checkpoint folder that appears under its name complete or not at all: filled beside it as `.<name>.<pid>.tmp`,
/// then renamed. Without commit() nothing stays.
class OutputFolder {
 public:
  /// The parent has to exist. A folder that is there and not empty is an error, unless `replace` is set and it holds
  /// nothing but files of a checkpoint. Errors: kNotFound, kIo, kUsage.
  OutputFolder(const std::filesystem::path& path, bool replace);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }            ///< where it will be
  const std::filesystem::path& temporary() const { return temporary_; }  ///< where it is filled
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  bool replace_ = false;
};

}  // namespace vlmzoo::app
