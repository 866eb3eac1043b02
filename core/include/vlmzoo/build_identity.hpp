#pragma once

#include <torch/version.h>

#include <cstddef>  // the C++ library's own macros, used below

/// What has to be equal in a host and its plugins beside abi_version, since C++ objects cross between them: LibTorch's
/// version, the C++ library's ABI, debug containers, sanitizers. One string, so that a mismatch can be shown.
#define VLMZOO_STRING_(x) #x
#define VLMZOO_STRING(x) VLMZOO_STRING_(x)

#if defined(_GLIBCXX_DEBUG)
#define VLMZOO_DEBUG_STL "debug-stl"
#else
#define VLMZOO_DEBUG_STL "release-stl"
#endif
#if defined(__SANITIZE_ADDRESS__)
#define VLMZOO_SANITIZER "asan"
#elif defined(__SANITIZE_THREAD__)
#define VLMZOO_SANITIZER "tsan"
#else
#define VLMZOO_SANITIZER "no-sanitizer"
#endif

#define VLMZOO_BUILD_IDENTITY                                                                             \
  "libtorch " TORCH_VERSION " | gxx-abi " VLMZOO_STRING(__GXX_ABI_VERSION) " | cxx11-abi " VLMZOO_STRING( \
      _GLIBCXX_USE_CXX11_ABI) " | " VLMZOO_DEBUG_STL " | " VLMZOO_SANITIZER
