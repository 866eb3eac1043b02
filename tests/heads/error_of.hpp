#pragma once

#include <optional>
#include <string_view>

#include "vlmzoo/error.hpp"

namespace vlmzoo::test {

template <typename Work>
std::optional<Error> error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

inline bool contains(const Error& error, std::string_view text) {
  return std::string_view(error.what()).find(text) != std::string_view::npos;
}

}  // namespace vlmzoo::test
