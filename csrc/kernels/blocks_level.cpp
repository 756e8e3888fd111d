#include "kernels/blocks_level.h"

#include <cstddef>
#include <vector>

namespace icmh::kernels {

const BlocksLevel& blocks_of(SimdLevel level) {
  switch (level) {
#ifdef ICMH_SIMD_X86
    case SimdLevel::avx512:
      return kBlocksAvx512;
    case SimdLevel::avx2:
      return kBlocksAvx2;
#endif
#ifdef ICMH_SIMD_NEON
    case SimdLevel::neon:
      return kBlocksNeon;
#endif
    default:
      return kBlocksScalar;
  }
}

float* blocks_scratch(std::int64_t floats) {
  thread_local std::vector<float> memory;
  constexpr std::size_t kLine = 64 / sizeof(float);
  if (memory.size() < static_cast<std::size_t>(floats) + kLine) {
    memory.resize(static_cast<std::size_t>(floats) + kLine);
  }
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(float);
}

}  // namespace icmh::kernels
