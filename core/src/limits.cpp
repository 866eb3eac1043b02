// What the system leaves to this process: free memory, and the limits of its control groups.
#include "limits.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <vector>

namespace vlmzoo {
namespace fs = std::filesystem;

/// The number behind `key` in lines "key number" or "key: number kB", as it stands.
std::optional<std::uint64_t> number_behind(const fs::path& file, std::string_view key) {
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

namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr double kNoQuota = std::numeric_limits<double>::infinity();

/// The number a file holds; none where it holds a word ("max") or can't be read.
std::optional<std::uint64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  std::int64_t value = 0;
  if (in >> value && value >= 0) return static_cast<std::uint64_t>(value);
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
      number_behind(statistics, files.inactive).value_or(0) + number_behind(statistics, files.active).value_or(0);
  const std::uint64_t used = usage - std::min(usage, cached);
  return limit - std::min(limit, used);
}

/// Where a hierarchy of control groups is mounted, and which group its `root` is.
struct CgroupMount {
  fs::path folder;
  std::string root;
  bool version2 = false;
};

std::vector<CgroupMount> cgroup_mounts(const fs::path& root, const std::string& controller) {
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
    const bool version1 = type == "cgroup" && ("," + options + ",").find("," + controller + ",") != std::string::npos;
    if (!version1 && type != "cgroup2") continue;
    mounts.push_back({root / fs::path(folder).relative_path(), group, type == "cgroup2"});
  }
  return mounts;
}

/// The group of this process in a hierarchy, as /proc/self/cgroup names it.
std::string own_group(const fs::path& root, bool version2, const std::string& controller) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    // "0::<group>" for version 2, "4:memory,cpu:<group>" for version 1
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (version2 ? controllers == ",," : controllers.find("," + controller + ",") != std::string::npos)
      return line.substr(second + 1);
  }
  return "/";
}

/// Calls `visit(folder, version2)` with this process's group under `controller` and all groups that it is in.
template <class Visit>
void visit_own_groups(const fs::path& root, const std::string& controller, const Visit& visit) {
  for (const CgroupMount& mount : cgroup_mounts(root, controller)) {
    // In a container only a part of the hierarchy may be mounted; the group's name may still be that of the host.
    std::string group = own_group(root, mount.version2, controller);
    if (mount.root != "/" && group.starts_with(mount.root)) group.erase(0, mount.root.size());
    fs::path inner = fs::path(group).lexically_normal().relative_path();
    if (!inner.empty() && *inner.begin() == "..") inner.clear();
    for (; !inner.empty(); inner = inner.parent_path()) visit(mount.folder / inner, mount.version2);
    visit(mount.folder, mount.version2);
  }
}

/// Processors that a group may use at a time; infinite without a limit.
double quota_of(const fs::path& group, bool version2) {
  double quota = 0, period = 0;
  if (version2) {  // "200000 100000" or "max 100000", microseconds
    std::ifstream in(group / "cpu.max");
    if (!(in >> quota >> period)) return kNoQuota;
  } else {
    quota = static_cast<double>(number_in(group / "cpu.cfs_quota_us").value_or(0));  // "-1": no limit
    period = static_cast<double>(number_in(group / "cpu.cfs_period_us").value_or(0));
  }
  return quota > 0 && period > 0 ? quota / period : kNoQuota;
}

}  // namespace

std::uint64_t free_memory_under(const fs::path& root) {
  const std::optional<std::uint64_t> kilobytes = number_behind(root / "proc/meminfo", "MemAvailable");
  std::uint64_t left = kilobytes ? *kilobytes * 1024 : kUnlimited;
  visit_own_groups(root, "memory", [&](const fs::path& group, bool version2) {
    left = std::min(left, left_in_group(group, version2 ? kVersion2 : kVersion1));
  });
  return left;
}

double processor_quota_under(const fs::path& root) {
  double quota = kNoQuota;
  visit_own_groups(root, "cpu",
                   [&](const fs::path& group, bool version2) { quota = std::min(quota, quota_of(group, version2)); });
  return quota;
}

}  // namespace vlmzoo
