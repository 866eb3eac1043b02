#include "vlmzoo/tensor_types.hpp"

#include <array>
#include <utility>

#include "vlmzoo/error.hpp"

namespace vlmzoo {
namespace {

constexpr std::array<std::pair<DType, at::ScalarType>, 10> kTypes = {{{DType::kF64, at::kDouble},
                                                                      {DType::kF32, at::kFloat},
                                                                      {DType::kF16, at::kHalf},
                                                                      {DType::kBF16, at::kBFloat16},
                                                                      {DType::kI64, at::kLong},
                                                                      {DType::kI32, at::kInt},
                                                                      {DType::kI16, at::kShort},
                                                                      {DType::kI8, at::kChar},
                                                                      {DType::kU8, at::kByte},
                                                                      {DType::kBool, at::kBool}}};

}  // namespace

at::ScalarType scalar_type(DType dtype) {
  for (const auto& [file, type] : kTypes) {
    if (file == dtype) return type;
  }
  throw Error(ErrorCode::kInternal, "a safetensors type without a tensor type");
}

std::optional<DType> dtype_of(at::ScalarType type) {
  for (const auto& [file, ours] : kTypes) {
    if (ours == type) return file;
  }
  return std::nullopt;
}

}  // namespace vlmzoo
