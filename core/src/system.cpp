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

#include "free_memory.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vlmzoo {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

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

/// The number behind `key` in lines "key number" or "key: number kB", as it stands.
std::optional<std::uint64_t> field(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t value = 0;
    if (!(words >> name)) continue;
    if (name.ends_with(':')) name.pop_back();
    if (name == key && words >> value) return value;
  }
  return std::nullopt;
}

/// The number a file holds; none where it holds a word ("max") or can't be read.
std::optional<std::uint64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  std::uint64_t value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

/// How the two versions of control groups call the same things.
struct CgroupFiles {
  const char *limit, *soft_limit, *usage, *inactive, *active;
};
constexpr CgroupFiles kVersion1 = {"memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_inactive_file",
                                   "total_active_file"};
constexpr CgroupFiles kVersion2 = {"memory.max", "memory.high", "memory.current", "inactive_file", "active_file"};

std::uint64_t left_in_group(const fs::path& group, const CgroupFiles& files) {
  std::uint64_t limit = number_in(group / files.limit).value_or(kUnlimited);
  if (*files.soft_limit != '\0') limit = std::min(limit, number_in(group / files.soft_limit).value_or(kUnlimited));
  if (limit == kUnlimited) return kUnlimited;
  const std::uint64_t usage = number_in(group / files.usage).value_or(0);
  // Cached files count as used, but the kernel drops them when an allocation needs the room.
  const fs::path statistics = group / "memory.stat";
  const std::uint64_t cached =
      field(statistics, files.inactive).value_or(0) + field(statistics, files.active).value_or(0);
  const std::uint64_t used = usage - std::min(usage, cached);
  return limit - std::min(limit, used);
}

/// Where a hierarchy of control groups is mounted, and which group its `root` is.
struct CgroupMount {
  fs::path folder;
  std::string root;
  bool version2 = false;
};

std::vector<CgroupMount> memory_cgroup_mounts(const fs::path& root) {
  std::vector<CgroupMount> mounts;
  std::ifstream in(root / "proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    // "31 23 0:28 <root> <mount point> <options> <optional fields> - <type> <source> <super options>"
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream left(line.substr(0, separator)), right(line.substr(separator + 3));
    std::string skipped, group, folder, type, options;
    left >> skipped >> skipped >> skipped >> group >> folder;
    right >> type >> skipped >> options;
    const bool version1 = type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos;
    if (!version1 && type != "cgroup2") continue;
    mounts.push_back({root / fs::path(folder).relative_path(), group, type == "cgroup2"});
  }
  return mounts;
}

/// The group of this process in a hierarchy, as /proc/self/cgroup names it.
std::string own_group(const fs::path& root, bool version2) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    // "0::<group>" for version 2, "4:memory,cpu:<group>" for version 1
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (version2 ? controllers == ",," : controllers.find(",memory,") != std::string::npos)
      return line.substr(second + 1);
  }
  return "/";
}

/// The smallest room left in this process's group and all groups that it is in.
std::uint64_t left_in_cgroups(const fs::path& root) {
  std::uint64_t left = kUnlimited;
  for (const CgroupMount& mount : memory_cgroup_mounts(root)) {
    const CgroupFiles& files = mount.version2 ? kVersion2 : kVersion1;
    // In a container only a part of the hierarchy may be mounted; the group's name may still be that of the host.
    std::string group = own_group(root, mount.version2);
    if (mount.root != "/" && group.starts_with(mount.root)) group.erase(0, mount.root.size());
    fs::path inner = fs::path(group).lexically_normal().relative_path();
    if (!inner.empty() && *inner.begin() == "..") inner.clear();
    for (; !inner.empty(); inner = inner.parent_path()) {
      left = std::min(left, left_in_group(mount.folder / inner, files));
    }
    left = std::min(left, left_in_group(mount.folder, files));
  }
  return left;
}

std::uint64_t status_bytes(std::string_view key) { return field("/proc/self/status", key).value_or(0) * 1024; }

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

std::uint64_t free_memory_under(const fs::path& root) {
  const std::optional<std::uint64_t> kilobytes = field(root / "proc/meminfo", "MemAvailable");
  return std::min(kilobytes ? *kilobytes * 1024 : kUnlimited, left_in_cgroups(root));
}

std::uint64_t available_memory() { return free_memory_under("/"); }
std::uint64_t peak_memory() { return status_bytes("VmHWM"); }
std::uint64_t resident_memory() { return status_bytes("VmRSS"); }

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
