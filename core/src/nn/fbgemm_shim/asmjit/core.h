// FBGEMM's SimdUtils.h names asmjit's registers, and LibTorch's wheel lacks asmjit's headers. Nothing here uses them.
#pragma once

#define ASMJIT_LIBRARY_VERSION 0
#define ASMJIT_LIBRARY_MAKE_VERSION(major, minor, patch) 1

namespace asmjit::x86 {
class Xmm;
class Ymm;
class Zmm;
}  // namespace asmjit::x86
