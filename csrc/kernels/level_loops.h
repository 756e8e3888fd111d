// One level's loops among those that this build has.
#pragma once

#include "kernels/level.h"

#ifdef ICMH_SIMD_AMX
#define ICMH_CASE_AMX(prefix) \
  case KernelLevel::amx:      \
    return prefix##Amx;
#else
#define ICMH_CASE_AMX(prefix)
#endif

#ifdef ICMH_SIMD_X86
#define ICMH_CASES_X86(prefix) \
  case KernelLevel::avx512:    \
    return prefix##Avx512;     \
  case KernelLevel::avx2:      \
    return prefix##Avx2;
#else
#define ICMH_CASES_X86(prefix)
#endif

#ifdef ICMH_SIMD_NEON
#define ICMH_CASE_NEON(prefix) \
  case KernelLevel::neon:      \
    return prefix##Neon;
#else
#define ICMH_CASE_NEON(prefix)
#endif

// Returns prefixScalar, prefixNeon, ... from a function of namespace icmh::kernels.
#define ICMH_RETURN_LOOPS(level, prefix) \
  switch (level) {                       \
    ICMH_CASE_AMX(prefix)                \
    ICMH_CASES_X86(prefix)               \
    ICMH_CASE_NEON(prefix)               \
    default:                             \
      return prefix##Scalar;             \
  }
