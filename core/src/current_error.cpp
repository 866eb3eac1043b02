#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <exception>
#include <filesystem>
#include <new>
#include <string>

#include "vlmzoo/error.hpp"

namespace vlmzoo {

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return {ErrorCode::kMemory, "out of memory"};
  } catch (const c10::OutOfMemoryError& error) {  // of an accelerator
    return {ErrorCode::kMemory, fmt::format("out of memory: {}", error.what_without_backtrace())};
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (text.find("can't allocate memory") == std::string::npos) return {ErrorCode::kInternal, text};
    return {ErrorCode::kMemory, "out of memory: " + text};
  } catch (const std::filesystem::filesystem_error& error) {
    return {ErrorCode::kIo, error.what()};
  } catch (const std::exception& error) {
    return {ErrorCode::kInternal, fmt::format("internal error: {}", error.what())};
  } catch (...) {
    return {ErrorCode::kInternal, "internal error: an exception of an unknown type"};
  }
}

}  // namespace vlmzoo
