// Which instruction sets the hand-written loops use: chosen once at run time, so that one build
// serves every CPU of an architecture. Results never depend on the level. With ICMH_NO_SIMD only
// the portable loops are compiled.
#pragma once

#include <string>

#include "common/status.h"

// 64-bit and little-endian only: the loops use 64-bit registers and read words as bytes lie.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(ICMH_NO_SIMD)
#define ICMH_SIMD_X86 1
#endif
#if defined(__aarch64__) && !defined(__AARCH64EB__) && defined(__GNUC__) && !defined(ICMH_NO_SIMD)
#define ICMH_SIMD_NEON 1
#endif

namespace icmh {

enum class SimdLevel {
  scalar,  // portable C++
  neon,    // every little-endian aarch64
  avx2,
  avx512,  // F, BW, CD, DQ, VL: Skylake-SP, Zen 4 and later
};
constexpr SimdLevel kSimdLevels[] = {SimdLevel::scalar, SimdLevel::neon, SimdLevel::avx2,
                                     SimdLevel::avx512};

const char* simd_level_name(SimdLevel level);

// True if this build has the level and this CPU can run it; always true for scalar.
bool simd_level_supported(SimdLevel level);

// The level of that name, "auto" meaning the best supported one.
Status simd_level_of_name(const std::string& name, SimdLevel* level);

// The level that the environment variable ICMH_SIMD names (default auto), read at the first call.
// A value that cannot be honoured counts as auto; check_simd_environment tells.
SimdLevel simd_level();
Status check_simd_environment();

}  // namespace icmh
