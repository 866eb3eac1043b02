#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

#include "vlmzoo/export.hpp"
#include "vlmzoo/safetensors.hpp"

namespace vlmzoo {

/// The same type as LibTorch calls it.
VLMZOO_API at::ScalarType scalar_type(DType dtype);
/// None for a type that safetensors files don't hold.
VLMZOO_API std::optional<DType> dtype_of(at::ScalarType type);

}  // namespace vlmzoo
