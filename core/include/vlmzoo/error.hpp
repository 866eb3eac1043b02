#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// Why something failed. The set is closed: a host may switch over it.
enum class ErrorCode {
  kUsage,        ///< wrong command line
  kConfig,       ///< wrong key, type or value in a configuration file or in a checkpoint's config.json
  kNotFound,     ///< a path, tensor or name that does not exist
  kUnsupported,  ///< well formed, but not something this program can do
  kCorrupt,      ///< a file whose content breaks its format
  kMismatch,     ///< two things that have to fit and do not (shapes, widths, counts)
  kIo,           ///< the operating system refused to read or write
  kMemory,       ///< it would not fit, or did not
  kPlugin,       ///< a plugin that can't be used
  kInterrupted,  ///< Ctrl-C or SIGTERM
  kInternal,     ///< a fault of this program
};

/// The one exception that crosses vlmzoo's interfaces. `what()` says what, where, expected against got, and what to do.
class VLMZOO_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// The exception that is being handled, as an Error: kMemory where memory ran out (in LibTorch too), kIo for one of
/// std::filesystem, else kInternal. Only within a `catch`.
VLMZOO_API Error current_error();

/// Exit code for a failure: 2 for kUsage and kConfig, 130 for kInterrupted, else 1.
VLMZOO_API int exit_code(ErrorCode code);

/// The candidate nearest to `name` by edit distance (case folded), or "" when none is within a third of its length.
VLMZOO_API std::string nearest(std::string_view name, std::span<const std::string> candidates);

}  // namespace vlmzoo
