#pragma once

#include "vlmzoo/plugin.hpp"

namespace vlmzoo::llama_vision {

/// The released configurations, from presets/*.json.
extern const Preset kPresets[];

}  // namespace vlmzoo::llama_vision
