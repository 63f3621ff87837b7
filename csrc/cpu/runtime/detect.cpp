// CPUID, XGETBV and the permission for AMX, read once.
#include "runtime/detect.h"

#include <stdexcept>

#if HEADRACE_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace headrace {
namespace {

#if HEADRACE_X86
struct CpuidLeaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(unsigned leaf, unsigned subleaf) {
  CpuidLeaf r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

bool has(unsigned word, int bit) { return word >> bit & 1; }

// Register state that the operating system saves; 0 without OSXSAVE.
uint64_t saved_state(const CpuidLeaf& one) {
  if (!has(one.ecx, 27)) return 0;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

std::string missing_avx2(const CpuidLeaf& one, const CpuidLeaf& seven, uint64_t saved) {
  if ((saved & 6) != 6) return "the operating system does not save AVX registers";
  bool has_lzcnt = has(cpuid(0x80000001, 0).ecx, 5);
  if (!has(seven.ebx, 5) || !has(one.ecx, 12) || !has(one.ecx, 29) || !has(one.ecx, 22) ||
      !has(seven.ebx, 3) || !has(seven.ebx, 8) || !has_lzcnt)
    return "the CPU lacks AVX2, FMA, F16C, MOVBE, LZCNT or BMI";
  return "";
}

std::string missing_avx512(const CpuidLeaf& seven, uint64_t saved) {
  if ((saved & 0xe6) != 0xe6) return "the operating system does not save AVX-512 registers";
  if (!has(seven.ebx, 16) || !has(seven.ebx, 17) || !has(seven.ebx, 28) || !has(seven.ebx, 30) ||
      !has(seven.ebx, 31))
    return "the CPU lacks AVX-512 F, CD, BW, DQ or VL";
  if (!has(seven.ecx, 11)) return "the CPU lacks AVX512-VNNI";
  return "";
}

bool request_tile_permission() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::string missing_bf16() { return has(cpuid(7, 1).eax, 5) ? "" : "the CPU lacks AVX512-BF16"; }

#if HEADRACE_EMULATE_TILES
// The tiles are in memory: what the kernels use beside them is enough.
std::string missing_amx(const CpuidLeaf& seven, uint64_t) {
  return has(seven.ecx, 1) ? "" : "the CPU lacks AVX512-VBMI";
}
#else
std::string missing_amx(const CpuidLeaf& seven, uint64_t saved) {
  if (!has(seven.edx, 24) || !has(seven.edx, 25) || !has(seven.edx, 22))
    return "the CPU lacks AMX tile, int8 or bf16";
  if (!has(seven.edx, 23) || !has(seven.ecx, 1)) return "the CPU lacks AVX512-FP16 or VBMI";
  if ((saved & 0x60000) != 0x60000) return "the operating system does not save AMX tiles";
  if (!request_tile_permission()) return "the operating system refused AMX tiles";
  return "";
}
#endif
#endif

std::vector<IsaStatus> find_isas() {
  std::vector<IsaStatus> found = {{"generic", true, "", &headrace_ops_generic}};
#if HEADRACE_X86
  CpuidLeaf one = cpuid(1, 0), seven = cpuid(7, 0);
  uint64_t saved = saved_state(one);
  std::string reason = missing_avx2(one, seven, saved);
  found.push_back({"avx2", reason.empty(), reason, &headrace_ops_avx2});
  if (reason.empty()) reason = missing_avx512(seven, saved);
  found.push_back({"avx512", reason.empty(), reason, &headrace_ops_avx512});
  if (reason.empty()) reason = missing_bf16();
  found.push_back({"avx512bf16", reason.empty(), reason, &headrace_ops_avx512bf16});
  if (reason.empty()) reason = missing_amx(seven, saved);
  found.push_back({"amx", reason.empty(), reason, &headrace_ops_amx});
#else
  for (const char* name : {"avx2", "avx512", "avx512bf16", "amx"})
    found.push_back({name, false, "this build is not for x86-64", nullptr});
#endif
  return found;
}

}  // namespace

const std::vector<IsaStatus>& isas() {
  static const std::vector<IsaStatus> found = find_isas();
  return found;
}

const OpTable& table_of(const std::string& isa) {
  std::string usable;
  for (const IsaStatus& status : isas()) {
    if (status.name == isa && status.is_available) return *status.table;
    if (status.name == isa)
      throw std::invalid_argument("isa '" + isa + "' cannot run here: " + status.reason + ".");
    if (status.is_available) usable += (usable.empty() ? "" : ", ") + status.name;
  }
  throw std::invalid_argument("isa '" + isa + "' is unknown; usable here: " + usable + ".");
}

}  // namespace headrace
