#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// The number behind `key` in lines "key number" or "key: number kB", as it stands.
std::optional<std::uint64_t> number_behind(const std::filesystem::path& file, std::string_view key);

/// available_memory() and processor_quota() as read from the `proc` and `sys` folders in `root`; exported so that tests
/// can lay such folders out.
VLMZOO_API std::uint64_t free_memory_under(const std::filesystem::path& root);
VLMZOO_API double processor_quota_under(const std::filesystem::path& root);

}  // namespace vlmzoo
