#pragma once

#include <string>

#include "vlmzoo/config.hpp"

namespace vlmzoo {

/// Every key with its value, as YAML that reads back as the same configuration.
std::string to_yaml(const Config& config);

}  // namespace vlmzoo
