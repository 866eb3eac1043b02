#pragma once

#include <filesystem>
#include <string>

namespace vlmzoo {

/// What keeps `file` from being a whole ELF shared library for this machine, as a phrase; "" when nothing does. The
/// dynamic loader maps a library by its own headers without a look at the file's length: one that was cut short would
/// be a SIGBUS there. Error: kIo.
std::string elf_fault(const std::filesystem::path& file);

}  // namespace vlmzoo
