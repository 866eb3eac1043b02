#pragma once

#include <filesystem>

namespace vlmzoo::app {

/// What a folder may hold and still be replaced.
struct FolderKind {
  const char* what;  ///< "a checkpoint", for messages
  bool (*owns)(const std::filesystem::directory_entry& entry);
};

/// What a released folder holds beside its weights, as far as this program reads it.
inline constexpr const char* kSmallCheckpointFiles[] = {"config.json",
                                                        "generation_config.json",
                                                        "preprocessor_config.json",
                                                        "processor_config.json",
                                                        "tokenizer.json",
                                                        "tokenizer_config.json",
                                                        "vocab.json",
                                                        "merges.txt",
                                                        "added_tokens.json",
                                                        "special_tokens_map.json",
                                                        "chat_template.json",
                                                        "chat_template.jinja"};

/// The files of a checkpoint, none of them a link.
extern const FolderKind kCheckpointFolder;

/// Errors: kIo for what is no folder, kUsage when it holds more than its kind does, naming a file.
void check_replaceable(const std::filesystem::path& folder, const FolderKind& kind);

/// A folder that appears under its name complete or not at all: filled beside it as `.<name>.<pid>.tmp`,
/// then renamed. Without commit() nothing stays.
class OutputFolder {
 public:
  /// The parent has to exist. A folder that is there and not empty is an error, unless `replace` is set and it holds
  /// nothing but what its kind does. Errors: kNotFound, kIo, kUsage.
  OutputFolder(const std::filesystem::path& path, bool replace, const FolderKind& kind = kCheckpointFolder);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }            ///< where it will be
  const std::filesystem::path& temporary() const { return temporary_; }  ///< where it is filled
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  bool replace_ = false;
  FolderKind kind_;
};

}  // namespace vlmzoo::app
