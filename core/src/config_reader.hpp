#pragma once

#include "vlmzoo/config.hpp"
#include "yaml_tree.hpp"

namespace vlmzoo {

/// Puts every value that `layer` holds into `config`, checked one by one, and its place into `config.origins`; what it
/// doesn't mention stays. Error: kConfig.
void apply_layer(const YamlNode& layer, Config& config);

}  // namespace vlmzoo
