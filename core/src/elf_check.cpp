#include "elf_check.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "input_file.hpp"

namespace vlmzoo {
namespace {

using Header = ElfW(Ehdr);
using Segment = ElfW(Phdr);
using Section = ElfW(Shdr);
using Entry = ElfW(Dyn);

constexpr unsigned char kClass = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
constexpr unsigned char kByteOrder = std::endian::native == std::endian::little ? ELFDATA2LSB : ELFDATA2MSB;
#if defined(__x86_64__)
constexpr std::uint16_t kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr std::uint16_t kMachine = EM_AARCH64;
#else
constexpr std::uint16_t kMachine = EM_NONE;  // not checked here; the dynamic loader does
#endif

// Sanitizers whose runtime ends the process when it comes in late, with a plugin: too early for the descriptor's check.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::string_view kForeignSanitizers[] = {"libtsan.so", "libhwasan.so"};
#elif defined(__SANITIZE_THREAD__)
constexpr std::string_view kForeignSanitizers[] = {"libasan.so", "libhwasan.so"};
#else
constexpr std::string_view kForeignSanitizers[] = {"libasan.so", "libtsan.so", "libhwasan.so"};
#endif

constexpr std::uint64_t kMostDynamicEntries = 4096;
constexpr const char* kAdvice = "copy or build it again";

/// False where the file ends before `out` is full.
template <typename T>
bool read_at(const InputFile& input, const std::filesystem::path& file, std::uint64_t offset, T& out) {
  const auto bytes = std::as_writable_bytes(std::span(&out, 1));
  return offset <= input.size() && read_fully(input.descriptor(), file, offset, bytes) == bytes.size();
}

/// Without overflow for any offset and length.
bool inside(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

/// Where in the file the byte lies that is loaded at `address`; 0 when nowhere.
std::uint64_t offset_of(std::uint64_t address, std::span<const Segment> segments) {
  for (const Segment& segment : segments) {
    const bool holds = address >= segment.p_vaddr && address - segment.p_vaddr < segment.p_filesz;
    if (segment.p_type == PT_LOAD && holds) return segment.p_offset + (address - segment.p_vaddr);
  }
  return 0;
}

/// The library of a sanitizer that this host was built without, if the file needs one.
std::string foreign_sanitizer(const InputFile& input, const std::filesystem::path& file,
                              std::span<const Segment> segments) {
  std::vector<std::uint64_t> needed;  // offsets into the string table
  std::uint64_t names = 0;
  for (const Segment& segment : segments) {
    if (segment.p_type != PT_DYNAMIC) continue;
    const std::uint64_t count = std::min<std::uint64_t>(segment.p_filesz / sizeof(Entry), kMostDynamicEntries);
    Entry entry{};
    for (std::uint64_t i = 0; i < count && read_at(input, file, segment.p_offset + i * sizeof(Entry), entry); ++i) {
      if (entry.d_tag == DT_NULL) break;
      if (entry.d_tag == DT_NEEDED) needed.push_back(entry.d_un.d_val);
      if (entry.d_tag == DT_STRTAB) names = offset_of(entry.d_un.d_ptr, segments);
    }
  }
  for (const std::uint64_t name : needed) {
    std::array<char, 16> text{};
    if (!inside(names, name, input.size()) || !read_at(input, file, names + name, text)) continue;
    for (const std::string_view library : kForeignSanitizers) {
      if (std::string_view(text.data(), text.size()).starts_with(library)) return std::string(library);
    }
  }
  return "";
}

std::string header_fault(const Header& header) {
  if (header.e_ident[EI_CLASS] != kClass || header.e_ident[EI_DATA] != kByteOrder) {
    return fmt::format("built for another machine: ELF class {} and byte order {}, expected {} and {}",
                       header.e_ident[EI_CLASS], header.e_ident[EI_DATA], kClass, kByteOrder);
  }
  if (kMachine != EM_NONE && header.e_machine != kMachine) {
    return fmt::format("built for another machine: ELF machine {}, expected {}", header.e_machine, kMachine);
  }
  if (header.e_type != ET_DYN) {
    return fmt::format("not a shared library: ELF type {}, expected {}", header.e_type, ET_DYN);
  }
  if (header.e_phentsize != sizeof(Segment) || header.e_phnum == 0 ||
      (header.e_shoff != 0 && header.e_shentsize != sizeof(Section))) {
    return fmt::format("damaged: its ELF header gives impossible table sizes; {}", kAdvice);
  }
  return "";
}

}  // namespace

std::string elf_fault(const std::filesystem::path& file) {
  const InputFile input(file, InputFile::Accept::kRegularFile);
  const std::uint64_t size = input.size();
  const auto truncated = [&](const std::string& what) {
    return fmt::format("truncated: {}, the file has {} bytes; {}", what, size, kAdvice);
  };

  Header header{};
  const bool whole_header = read_at(input, file, 0, header);
  const std::size_t magic = size < SELFMAG ? static_cast<std::size_t>(size) : SELFMAG;
  if (std::memcmp(header.e_ident, ELFMAG, magic) != 0) return "not an ELF shared library";
  if (!whole_header) return truncated(fmt::format("an ELF header alone has {} bytes", sizeof(Header)));
  if (std::string fault = header_fault(header); !fault.empty()) return fault;

  if (!inside(header.e_phoff, std::uint64_t{header.e_phnum} * sizeof(Segment), size)) {
    return truncated(fmt::format("its {} program headers begin at byte {}", header.e_phnum, header.e_phoff));
  }
  std::vector<Segment> segments(header.e_phnum);
  for (std::size_t i = 0; i < segments.size(); ++i) {
    Segment& segment = segments[i];
    if (!read_at(input, file, header.e_phoff + i * sizeof(Segment), segment)) return truncated("no program headers");
    if (segment.p_type == PT_LOAD && !inside(segment.p_offset, segment.p_filesz, size)) {
      return truncated(fmt::format("a segment has {} bytes from byte {} on", segment.p_filesz, segment.p_offset));
    }
  }

  if (!inside(header.e_shoff, std::uint64_t{header.e_shnum} * sizeof(Section), size)) {
    return truncated(fmt::format("its {} section headers begin at byte {}", header.e_shnum, header.e_shoff));
  }
  // Section headers are the last thing in a library. A download that stopped in a file of the final length left zeros.
  if (header.e_shstrndx != SHN_UNDEF && header.e_shstrndx < header.e_shnum) {
    Section names{};
    if (!read_at(input, file, header.e_shoff + header.e_shstrndx * sizeof(Section), names) ||
        names.sh_type != SHT_STRTAB) {
      return fmt::format("truncated: its section headers are missing; {}", kAdvice);
    }
  }
  if (const std::string library = foreign_sanitizer(input, file, segments); !library.empty()) {
    return fmt::format("built with a sanitizer ({}) that this host was built without; rebuild the plugin alike",
                       library);
  }
  return "";
}

}  // namespace vlmzoo
