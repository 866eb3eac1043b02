#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vlmzoo/export.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo {

/// The folder that `pretrained_path` names: a folder, or `org/name` in the local Hugging Face cache (HF_HUB_CACHE, else
/// HF_HOME/hub, else huggingface/hub in XDG_CACHE_HOME or ~/.cache; there models--org--name/snapshots/<commit>, the
/// commit from refs/main, else the only snapshot). Never the network. Error: kNotFound, "Model path does not exist: …"
/// with everything that was looked for.
VLMZOO_API std::filesystem::path resolve_pretrained_path(const std::string& pretrained_path);

/// The tensors of a Hugging Face checkpoint folder: `model.safetensors`, else the files that
/// `model.safetensors.index.json` names; other .safetensors files are ignored. Const methods may run concurrently.
/// Errors: kNotFound when neither is there (a folder with only pytorch_model.bin says so), kCorrupt when the index
/// names a file outside the folder, a missing file, or a tensor that its file lacks.
class VLMZOO_API Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  const TensorEntry* find(std::string_view name) const;  ///< null when absent
  std::vector<std::string> names() const;                ///< sorted
  std::uint64_t bytes() const;                           ///< of all tensors

  /// As SafetensorsFile::read, by name. The tensor has to exist.
  void read(std::string_view name, std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::pair<std::size_t, const TensorEntry*>, std::less<>> index_;
};

}  // namespace vlmzoo
