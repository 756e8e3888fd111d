#include "common/simd.h"

#include <cstdlib>

#include "common/text.h"

namespace icmh {
namespace {

SimdLevel best_supported() {
  SimdLevel best = SimdLevel::scalar;
  for (const SimdLevel level : kSimdLevels) {
    if (simd_level_supported(level)) best = level;
  }
  return best;
}

Status level_of_environment(SimdLevel* level) {
  const char* const name = std::getenv("ICMH_SIMD");
  Status status = simd_level_of_name(name == nullptr || *name == '\0' ? "auto" : name, level);
  if (status.is_ok()) return status;
  return Status::bad_argument("the environment variable ICMH_SIMD: " + status.message());
}

}  // namespace

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::scalar:
      return "scalar";
    case SimdLevel::neon:
      return "neon";
    case SimdLevel::avx2:
      return "avx2";
    case SimdLevel::avx512:
      return "avx512";
  }
  return "unknown";
}

bool simd_level_supported(SimdLevel level) {
  switch (level) {
    case SimdLevel::scalar:
      return true;
    case SimdLevel::neon:
#ifdef ICMH_SIMD_NEON
      return true;
#else
      return false;
#endif
#ifdef ICMH_SIMD_X86
    case SimdLevel::avx2:
      // Every CPU with AVX2 but one has FMA too; the floating-point kernels use both.
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    case SimdLevel::avx512:
      return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
             __builtin_cpu_supports("avx512cd") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
             __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx2") != 0;
#else
    case SimdLevel::avx2:
    case SimdLevel::avx512:
      return false;
#endif
  }
  return false;
}

Status simd_level_of_name(const std::string& name, SimdLevel* level) {
  *level = best_supported();
  if (name == "auto") return Status::ok();
  std::string names = "auto";
  for (const SimdLevel candidate : kSimdLevels) {
    if (!simd_level_supported(candidate)) continue;
    if (name == simd_level_name(candidate)) {
      *level = candidate;
      return Status::ok();
    }
    names += std::string(", ") + simd_level_name(candidate);
  }
  return Status::bad_argument("there is no instruction set level " + quoted(name) +
                              " here; choose one of " + names);
}

SimdLevel simd_level() {
  static const SimdLevel level = [] {
    SimdLevel chosen;
    (void)level_of_environment(&chosen).is_ok();
    return chosen;
  }();
  return level;
}

Status check_simd_environment() {
  SimdLevel ignored;
  return level_of_environment(&ignored);
}

}  // namespace icmh
