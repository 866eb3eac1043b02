#include "vlmzoo/system.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "../../core/src/limits.hpp"

namespace fs = std::filesystem;

namespace {

/// `proc` and `sys` folders as a machine with 8 GB of free memory has them.
class Machine {
 public:
  Machine() {
    std::string pattern = (fs::temp_directory_path() / "vlmzoo_system_XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    root_ = pattern;
    write("proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n");
  }
  ~Machine() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void write(const std::string& file, const std::string& content) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << content;
  }
  void mount(const std::string& line) const { write("proc/self/mountinfo", line); }
  std::uint64_t free_memory() const { return vlmzoo::free_memory_under(root_); }
  double quota() const { return vlmzoo::processor_quota_under(root_); }

 private:
  fs::path root_;
};

constexpr std::uint64_t kFree = 8'000'000ULL * 1024;

}  // namespace

TEST_CASE("processor features agree with what the kernel lists") {
  std::string flags;
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line) && flags.empty();) {
    if (line.starts_with("flags")) flags = line + " ";
  }
  const auto listed = [&](const std::string& flag) { return flags.find(" " + flag + " ") != std::string::npos; };
  const vlmzoo::CpuFeatures& features = vlmzoo::cpu_features();
  CHECK(features.avx2 == listed("avx2"));
  CHECK(features.f16c == listed("f16c"));
  CHECK(features.fma == listed("fma"));
  CHECK(features.avx512 == (listed("avx512f") && listed("avx512dq") && listed("avx512bw") && listed("avx512vl")));
  CHECK(features.avx512_bf16 == listed("avx512_bf16"));
  CHECK(features.avx512_vnni == listed("avx512_vnni"));
  CHECK(features.amx_bf16 == listed("amx_bf16"));
  const std::string text = vlmzoo::describe_cpu();
  CHECK_FALSE(text.empty());
  CHECK((text.find(" avx2") != std::string::npos) == features.avx2);
}

TEST_CASE("memory in use follows what is allocated and given back") {
  constexpr std::size_t kSize = 256 << 20;
  const std::uint64_t before = vlmzoo::resident_memory();
  CHECK(before > 0);
  {
    // Pieces below malloc's mmap threshold: freeing them alone gives nothing back.
    std::vector<std::vector<char>> pieces(kSize >> 16);
    for (auto& piece : pieces) piece.assign(1 << 16, 'x');
    CHECK(vlmzoo::resident_memory() >= before + kSize / 2);
  }
  vlmzoo::release_freed_memory();
#if !defined(__SANITIZE_ADDRESS__)  // its allocator keeps freed memory in quarantine
  CHECK(vlmzoo::resident_memory() < before + kSize / 4);
#endif
  CHECK(vlmzoo::peak_memory() >= before + kSize / 2);
  CHECK(vlmzoo::available_memory() > 0);
}

TEST_CASE("without control groups, free memory is what the kernel says") {
  const Machine machine;
  CHECK(machine.free_memory() == kFree);
  machine.mount("31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\ngarbage\n\n - \n");
  CHECK(machine.free_memory() == kFree);
}

TEST_CASE("control groups of version 2 limit free memory, parents included") {
  const Machine machine;
  machine.mount("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  machine.write("proc/self/cgroup", "0::/user/job\n");
  machine.write("sys/fs/cgroup/user/job/memory.max", "max\n");
  machine.write("sys/fs/cgroup/user/memory.max", "max\n");
  CHECK(machine.free_memory() == kFree);

  SUBCASE("its own limit, with cached files counted as free") {
    machine.write("sys/fs/cgroup/user/job/memory.max", "1000000\n");
    machine.write("sys/fs/cgroup/user/job/memory.current", "600000\n");
    machine.write("sys/fs/cgroup/user/job/memory.stat", "anon 300000\ninactive_file 200000\nactive_file 100000\n");
    CHECK(machine.free_memory() == 700000);
  }
  SUBCASE("the softer limit") {
    machine.write("sys/fs/cgroup/user/job/memory.max", "1000000\n");
    machine.write("sys/fs/cgroup/user/job/memory.high", "500000\n");
    CHECK(machine.free_memory() == 500000);
  }
  SUBCASE("a parent's limit") {
    machine.write("sys/fs/cgroup/user/memory.max", "900000\n");
    machine.write("sys/fs/cgroup/user/memory.current", "800000\n");
    CHECK(machine.free_memory() == 100000);
  }
  SUBCASE("more used than allowed leaves nothing") {
    machine.write("sys/fs/cgroup/user/memory.max", "900000\n");
    machine.write("sys/fs/cgroup/user/memory.current", "1000000\n");
    CHECK(machine.free_memory() == 0);
  }
  SUBCASE("a group's name from outside this container means the mounted one") {
    machine.write("proc/self/cgroup", "0::/../../elsewhere\n");
    machine.write("sys/fs/cgroup/memory.max", "700000\n");
    CHECK(machine.free_memory() == 700000);
  }
}

TEST_CASE("control groups of version 1 limit free memory, parents included") {
  const Machine machine;
  machine.mount(
      "34 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
      "35 31 0:32 /docker /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "4:memory:/docker/job\n1:cpu:/\n0::/\n");
  machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000\n");
  CHECK(machine.free_memory() == kFree);

  machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000\n");
  machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000000\n");
  CHECK(machine.free_memory() == 2000000);

  machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "2000000\n");
  machine.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1500000\n");
  machine.write("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 9\ntotal_inactive_file 400000\n");
  CHECK(machine.free_memory() == 900000);
}

TEST_CASE("bytes are written with three digits") {
  CHECK(vlmzoo::format_bytes(0) == "0 B");
  CHECK(vlmzoo::format_bytes(999) == "999 B");
  CHECK(vlmzoo::format_bytes(1000) == "1.00 kB");
  CHECK(vlmzoo::format_bytes(9994) == "9.99 kB");
  CHECK(vlmzoo::format_bytes(9996) == "10.0 kB");
  CHECK(vlmzoo::format_bytes(999'499) == "999 kB");
  CHECK(vlmzoo::format_bytes(999'500) == "1.00 MB");
  CHECK(vlmzoo::format_bytes(1'870'000'000) == "1.87 GB");
  CHECK(vlmzoo::format_bytes(12'345'678'901) == "12.3 GB");
  CHECK(vlmzoo::format_bytes(~std::uint64_t{0}) == "18.4 EB");
}

TEST_CASE("the processors of a control group are those of the narrowest group it is in") {
  const Machine machine;
  CHECK(std::isinf(machine.quota()));
  machine.mount("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "0::/outer/inner\n");
  machine.write("sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
  machine.write("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  CHECK(machine.quota() == 1.5);
  machine.mount("31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
  machine.write("proc/self/cgroup", "4:cpu,cpuacct:/job\n");
  machine.write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1\n");
  machine.write("sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  CHECK(std::isinf(machine.quota()));
  machine.write("sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "50000\n");
  CHECK(machine.quota() == 0.5);
}
