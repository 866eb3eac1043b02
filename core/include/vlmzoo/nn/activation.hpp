#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

enum class Activation { kGelu, kGeluTanh, kSilu, kRelu, kTanh };
/// Error: kUnsupported naming `where`. "gelu" is the exact one (erf), as in transformers' ACT2FN.
VLMZOO_API Activation parse_activation(const std::string& name, const std::string& where);
VLMZOO_API at::Tensor activate(const at::Tensor& x, Activation activation);

}  // namespace vlmzoo
