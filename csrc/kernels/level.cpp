#include "kernels/level.h"

#include <cstdlib>

#include "common/text.h"

#ifdef ICMH_SIMD_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace icmh::kernels {
namespace {

KernelLevel of_simd(SimdLevel level) {
  switch (level) {
    case SimdLevel::neon:
      return KernelLevel::neon;
    case SimdLevel::avx2:
      return KernelLevel::avx2;
    case SimdLevel::avx512:
      return KernelLevel::avx512;
    default:
      return KernelLevel::scalar;
  }
}

// The CPU has tiles of bfloat16, and the system gives the process their registers: Linux does on
// request.
bool ask_for_tiles() {
#ifdef ICMH_SIMD_AMX
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!simd_level_supported(SimdLevel::avx512)) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
  if ((d & kBfloat16) == 0 || (d & kTiles) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_tiles() {
  static const bool has = ask_for_tiles();
  return has;
}

bool is_automatic() {
  const char* const name = std::getenv("ICMH_SIMD");
  return name == nullptr || *name == '\0' || std::string(name) == "auto";
}

}  // namespace

const char* kernel_level_name(KernelLevel level) {
  switch (level) {
    case KernelLevel::scalar:
      return "scalar";
    case KernelLevel::neon:
      return "neon";
    case KernelLevel::avx2:
      return "avx2";
    case KernelLevel::avx512:
      return "avx512";
    case KernelLevel::amx:
      return "amx";
  }
  return "unknown";
}

bool kernel_level_supported(KernelLevel level) {
  if (level == KernelLevel::amx) return has_tiles();
  for (const SimdLevel simd : kSimdLevels) {
    if (of_simd(simd) == level) return simd_level_supported(simd);
  }
  return false;
}

Status kernel_level_of_name(const std::string& name, KernelLevel* level) {
  static const bool automatic = is_automatic();
  *level = automatic && has_tiles() ? KernelLevel::amx : of_simd(simd_level());
  if (name == "auto") return Status::ok();
  std::string names = "auto";
  for (const KernelLevel candidate : kKernelLevels) {
    if (!kernel_level_supported(candidate)) continue;
    if (name == kernel_level_name(candidate)) {
      *level = candidate;
      return Status::ok();
    }
    names += std::string(", ") + kernel_level_name(candidate);
  }
  return Status::bad_argument("there is no instruction set level " + quoted(name) +
                              " here; use one of " + names);
}

}  // namespace icmh::kernels
