#pragma once

#include <cstdint>
#include <filesystem>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// available_memory() as read from the `proc` and `sys` folders in `root`; exported so that tests can lay such folders
/// out.
VLMZOO_API std::uint64_t free_memory_under(const std::filesystem::path& root);

}  // namespace vlmzoo
