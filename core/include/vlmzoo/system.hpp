#pragma once

#include <cstdint>
#include <string>

#include "vlmzoo/export.hpp"

namespace vlmzoo {

/// What this processor can compute with. Read once from CPUID, honouring what the operating system enabled.
struct CpuFeatures {
  bool avx2 = false, f16c = false, fma = false, avx512 = false, avx512_bf16 = false, avx512_vnni = false,
       amx_bf16 = false;

  bool fbgemm() const { return avx2 && fma && f16c; }  ///< what FBGEMM's kernels and our AVX2 ones need
};
VLMZOO_API const CpuFeatures& cpu_features();
VLMZOO_API std::string describe_cpu();  ///< "AMD EPYC …: avx2 f16c avx512 …"

/// Bytes that a new allocation can get without swapping: the smaller of MemAvailable and what is left of the cgroup's
/// limit.
VLMZOO_API std::uint64_t available_memory();
VLMZOO_API double processor_quota();         ///< processors that the cgroup may use at a time; infinite without a limit
VLMZOO_API std::uint64_t peak_memory();      ///< VmHWM of this process, bytes
VLMZOO_API std::uint64_t resident_memory();  ///< VmRSS of this process, bytes

/// From here on freed heap pages stay with the process until release_freed_memory(), however large the blocks. Else
/// glibc maps and unmaps each large intermediate result, and the kernel clears its pages every time: a third of a
/// training step. Only for what works with one model from beginning to end.
VLMZOO_API void keep_freed_memory();

/// Returns freed heap pages to the operating system (glibc's malloc_trim).
VLMZOO_API void release_freed_memory();

/// "1.87 GB": decimal units, three digits.
VLMZOO_API std::string format_bytes(std::uint64_t bytes);

}  // namespace vlmzoo
