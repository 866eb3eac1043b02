#include "vlmzoo/system.hpp"

#include <fmt/format.h>
#include <malloc.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "limits.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vlmzoo {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);  // all zero for a leaf that the processor doesn't have
  return r;
}

/// Register states that the operating system saves: without that an instruction faults, whatever CPUID says.
unsigned enabled_states() {
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

CpuFeatures read_cpu_features() {
  const auto bit = [](unsigned value, int index) { return ((value >> index) & 1U) != 0; };
  const Registers basic = cpuid(1), extended = cpuid(7), more = cpuid(7, 1);
  const bool os_saves = bit(basic.c, 27);
  const unsigned states = os_saves ? enabled_states() : 0;
  const auto enabled = [states](unsigned mask) { return (states & mask) == mask; };

  CpuFeatures features;
  const bool avx = enabled(0x6) && bit(basic.c, 28);
  features.avx2 = avx && bit(extended.b, 5);
  features.fma = avx && bit(basic.c, 12);
  features.f16c = avx && bit(basic.c, 29);
  // F, DQ, BW and VL: what the kernels that go by "avx512" take for granted.
  const bool avx512 = bit(extended.b, 16) && bit(extended.b, 17) && bit(extended.b, 30) && bit(extended.b, 31);
  features.avx512 = features.avx2 && enabled(0xE6) && avx512;
  features.avx512_vnni = features.avx512 && bit(extended.c, 11);
  features.avx512_bf16 = features.avx512 && bit(more.a, 5);
  features.amx_bf16 = enabled(0x60000) && bit(extended.d, 24) && bit(extended.d, 22);
  return features;
}

std::string processor_name() {
  if (cpuid(0x80000000U).a < 0x80000004U) return "x86-64";
  std::array<char, 48> name{};
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002U + i);
    std::memcpy(name.data() + i * sizeof(r), &r, sizeof(r));
  }
  std::string text(name.data(), ::strnlen(name.data(), name.size()));
  text.erase(0, text.find_first_not_of(' '));
  text.erase(text.find_last_not_of(' ') + 1);
  return text.empty() ? "x86-64" : text;
}

#else

CpuFeatures read_cpu_features() { return {}; }

std::string processor_name() {
  utsname name{};
  return ::uname(&name) == 0 ? name.machine : "unknown processor";
}

#endif

std::uint64_t status_bytes(std::string_view key) { return number_behind("/proc/self/status", key).value_or(0) * 1024; }

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = read_cpu_features();
  return features;
}

std::string describe_cpu() {
  const CpuFeatures& features = cpu_features();
  std::string names;
  const auto add = [&names](bool present, const char* name) {
    if (present) names += std::string(" ") + name;
  };
  add(features.avx2, "avx2");
  add(features.f16c, "f16c");
  add(features.fma, "fma");
  add(features.avx512, "avx512");
  add(features.avx512_bf16, "avx512_bf16");
  add(features.avx512_vnni, "avx512_vnni");
  add(features.amx_bf16, "amx_bf16");
  return names.empty() ? processor_name() : processor_name() + ":" + names;
}

std::uint64_t available_memory() { return free_memory_under("/"); }
double processor_quota() { return processor_quota_under("/"); }
std::uint64_t peak_memory() { return status_bytes("VmHWM"); }
std::uint64_t resident_memory() { return status_bytes("VmRSS"); }

void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);  // never
#endif
}

void release_freed_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  constexpr std::array<const char*, 6> units = {"kB", "MB", "GB", "TB", "PB", "EB"};
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; value >= 999.5; ++unit) value /= 1000;  // 999.5 would be shown as four digits
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, units[unit]);
}

}  // namespace vlmzoo
