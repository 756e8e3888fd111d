// Which loops the floating-point kernels use: those of a SimdLevel, or matrix tiles on top.
#pragma once

#include <string>

#include "common/simd.h"
#include "common/status.h"

#if defined(ICMH_SIMD_X86) && defined(__linux__) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define ICMH_SIMD_AMX 1
#endif

namespace icmh::kernels {

enum class KernelLevel { scalar, neon, avx2, avx512, amx };
constexpr KernelLevel kKernelLevels[] = {KernelLevel::scalar, KernelLevel::neon, KernelLevel::avx2,
                                         KernelLevel::avx512, KernelLevel::amx};

// What matrices and what they are multiplied with may be rounded to; sums are floats. Only tiles gain
// by bfloat16: the other levels compute in float32 then too.
enum class Precision { float32, bfloat16 };

const char* kernel_level_name(KernelLevel level);

// True if this build has the level and this CPU, and for amx this system, can run it.
bool kernel_level_supported(KernelLevel level);

// The level of that name. "auto" is amx where it is supported and ICMH_SIMD names no level, else
// the one of simd_level().
Status kernel_level_of_name(const std::string& name, KernelLevel* level);

}  // namespace icmh::kernels
