#define BOOST_DLL_USE_STD_FS
#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/dll/shared_library.hpp>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <system_error>

#include "elf_check.hpp"
#include "shortened.hpp"
#include "vlmzoo/error.hpp"
#include "vlmzoo/registry.hpp"

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kLongestName = 64;
constexpr std::size_t kMostEntries = 64;  ///< model types or presets; a list without its end is not followed further
constexpr std::size_t kLongestReason = 300;

[[noreturn]] void refuse(const fs::path& file, const std::string& reason) {
  throw Error(ErrorCode::kPlugin, fmt::format("{}: {}", file.string(), reason));
}

/// The sticky bit lets everyone create files in a folder, but not replace those of others (/tmp).
bool replaceable_by_everyone(const fs::path& folder) {
  struct stat status {};
  return ::stat(folder.c_str(), &status) == 0 && (status.st_mode & S_IWOTH) != 0 && (status.st_mode & S_ISVTX) == 0;
}

/// The regular file behind `file`, which nobody but its owner and group can change.
fs::path trusted_file(const fs::path& file) {
  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  if (error == std::errc::no_such_file_or_directory) {
    const fs::path target = fs::read_symlink(file, error);
    if (error) refuse(file, "does not exist");
    refuse(file, fmt::format("is a symbolic link to '{}', which does not exist", target.string()));
  }
  if (error) refuse(file, error.message());

  struct stat status {};
  if (::stat(real.c_str(), &status) != 0) refuse(file, std::generic_category().message(errno));
  if (S_ISDIR(status.st_mode)) refuse(file, "is a folder, expected a plugin file");
  if (!S_ISREG(status.st_mode)) refuse(file, "is a device, pipe or socket, expected a plugin file");
  if ((status.st_mode & S_IWOTH) != 0) {
    refuse(file, fmt::format("writable for everyone (mode {:o}), so anyone may have changed it; run chmod o-w on it",
                             status.st_mode & 07777U));
  }
  for (const fs::path& folder : {fs::absolute(file).parent_path(), real.parent_path()}) {
    if (replaceable_by_everyone(folder)) {
      refuse(file, fmt::format("in a folder that is writable for everyone, so anyone may have replaced it; run chmod "
                               "o-w on {}",
                               folder.string()));
    }
  }
  return real;
}

/// What dlopen said, on one line and without the file's name, which the message has already.
std::string loader_reason(const fs::path& real) {
  const char* text = ::dlerror();
  if (text == nullptr) return "the dynamic loader gave no reason";
  std::string_view reason(text);
  const std::string prefix = real.string() + ": ";
  if (reason.starts_with(prefix)) reason.remove_prefix(prefix.size());
  return shortened(reason.substr(0, reason.find('\n')), kLongestReason);
}

const PluginDescriptor& load_descriptor(const fs::path& file, const fs::path& real) {
  // Never destroyed and never emptied, refused libraries included: LibTorch, thread-locals and unique symbols make
  // dlclose unsafe.
  static std::mutex mutex;
  static auto& loaded = *new std::vector<boost::dll::shared_library>;

  const std::lock_guard lock(mutex);
  boost::dll::shared_library& library = loaded.emplace_back();
  boost::dll::fs::error_code error;
  library.load(real, boost::dll::load_mode::rtld_now | boost::dll::load_mode::rtld_local, error);
  if (error) {
    const std::string reason = loader_reason(real);
    loaded.pop_back();
    refuse(file, "cannot be loaded: " + reason);
  }
  if (!library.has(kPluginSymbol)) {
    refuse(file,
           fmt::format("exports no symbol '{}', so it is no vlmzoo plugin (VLMZOO_PLUGIN writes it)", kPluginSymbol));
  }
  return library.get<const PluginDescriptor>(kPluginSymbol);
}

bool is_name(const char* text, std::string_view allowed) {
  if (text == nullptr) return false;
  const std::size_t length = ::strnlen(text, kLongestName + 1);
  return length > 0 && length <= kLongestName &&
         std::string_view(text, length).find_first_not_of(allowed) == std::string_view::npos;
}

constexpr std::string_view kTypeCharacters = "abcdefghijklmnopqrstuvwxyz0123456789._-";
constexpr std::string_view kNameCharacters = "abcdefghijklmnopqrstuvwxyz0123456789._-+ABCDEFGHIJKLMNOPQRSTUVWXYZ";

std::vector<std::string> checked_model_types(const fs::path& file, const PluginDescriptor& descriptor) {
  std::vector<std::string> types;
  for (const char* const* type = descriptor.model_types; type != nullptr && *type != nullptr; ++type) {
    if (types.size() == kMostEntries) refuse(file, fmt::format("lists more than {} model types", kMostEntries));
    if (!is_name(*type, kTypeCharacters)) {
      refuse(file, fmt::format("its model type '{}' is not 1 to {} of the characters a-z 0-9 . _ -",
                               shortened({*type, ::strnlen(*type, kLongestName + 1)}), kLongestName));
    }
    if (std::find(types.begin(), types.end(), *type) != types.end()) {
      refuse(file, fmt::format("lists the model type '{}' twice", *type));
    }
    types.emplace_back(*type);
  }
  if (types.empty()) refuse(file, "lists no model types");
  return types;
}

void check_presets(const fs::path& file, const PluginDescriptor& descriptor) {
  if (descriptor.presets == nullptr) return;
  std::size_t count = 0;
  for (const Preset* preset = descriptor.presets; preset->name != nullptr; ++preset) {
    if (++count > kMostEntries) refuse(file, fmt::format("lists more than {} presets", kMostEntries));
    if (!is_name(preset->name, kNameCharacters) || preset->description == nullptr || preset->config_json == nullptr) {
      refuse(file,
             fmt::format("its preset {} lacks a name of a-z A-Z 0-9 . _ + -, a description or a configuration", count));
    }
  }
}

/// Adds a folder that the user named.
void append_named(std::vector<fs::path>& folders, const std::string& folder, const char* source) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error(ErrorCode::kNotFound, fmt::format("Plugin folder does not exist: '{}' (from {})", folder, source));
  }
  folders.push_back(fs::absolute(folder).lexically_normal());
}

}  // namespace

PluginInfo open_plugin(const fs::path& file) {
  const fs::path real = trusted_file(file);
  try {
    if (const std::string fault = elf_fault(real); !fault.empty()) refuse(file, fault);
  } catch (const Error& error) {
    throw Error(ErrorCode::kPlugin, error.what());
  }
  const PluginDescriptor& descriptor = load_descriptor(file, real);
  // Until the version and the build are known to match, nothing behind them may be read.
  if (descriptor.abi_version != kPluginAbiVersion) {
    refuse(file, fmt::format("has plugin ABI version {}, this host needs {}; rebuild the plugin against this vlmzoo",
                             descriptor.abi_version, kPluginAbiVersion));
  }
  constexpr std::string_view identity = VLMZOO_BUILD_IDENTITY;
  const char* const theirs = descriptor.build_identity;
  if (theirs == nullptr || theirs != identity) {
    refuse(file,
           fmt::format("was built as [{}], this host as [{}]; rebuild the plugin against this vlmzoo",
                       theirs == nullptr ? "" : shortened({theirs, ::strnlen(theirs, kLongestReason)}, 200), identity));
  }
  if (!is_name(descriptor.name, kNameCharacters) || !is_name(descriptor.version, kNameCharacters)) {
    refuse(file, fmt::format("its name or version is not 1 to {} of the characters a-z A-Z 0-9 . _ + -", kLongestName));
  }
  PluginInfo info{descriptor.name, descriptor.version, checked_model_types(file, descriptor), real, &descriptor};
  check_presets(file, descriptor);
  if (descriptor.create == nullptr) refuse(file, "has no create function");
  return info;
}

std::vector<fs::path> plugin_search_path(std::span<const std::string> first) {
  std::vector<fs::path> folders;
  for (const std::string& folder : first) append_named(folders, folder, "--plugin-dir");

  const char* variable = std::getenv("VLMZOO_PLUGIN_PATH");
  std::string_view rest = variable == nullptr ? "" : variable;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    // An empty entry is nothing here, not the working directory as in PATH.
    if (end > 0) append_named(folders, std::string(rest.substr(0, end)), "VLMZOO_PLUGIN_PATH");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }

  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back((program.parent_path() / "../lib/vlmzoo/plugins").lexically_normal());
  return folders;
}

}  // namespace vlmzoo
