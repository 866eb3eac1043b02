#pragma once

#include "vlmzoo/plugin.hpp"

namespace vlmzoo::internvl {

/// The released configurations, from presets/*.json.
extern const Preset kPresets[];

}  // namespace vlmzoo::internvl
