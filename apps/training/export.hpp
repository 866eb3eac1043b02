#pragma once

#include <filesystem>
#include <optional>

#include "vlmzoo/config.hpp"
#include "vlmzoo/model.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo::app {

/// Writes the checkpoint that `config` names with the trained values of `model` in their places: the same layout, names
/// and files, in `dtype`, or in the type of the original's first tensor; what was frozen is copied. The folder appears
/// complete or not at all and replaces an earlier one. Errors: kIo, kInterrupted.
void export_model(const Model& model, const ModelConfig& config, const std::filesystem::path& folder,
                  std::optional<DType> dtype = {});

}  // namespace vlmzoo::app
