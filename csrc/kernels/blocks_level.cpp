#include "kernels/blocks_level.h"

namespace icmh::kernels {

const BlocksLevel& blocks_of(KernelLevel level, std::int64_t channels) {
  // Tiles of fewer channels are half empty, and sums so short that roundings do not even out.
  constexpr std::int64_t kFewestOfTiles = 32;
  if (level == KernelLevel::amx && channels < kFewestOfTiles) level = KernelLevel::avx512;
  switch (level) {
#ifdef ICMH_SIMD_AMX
    case KernelLevel::amx:
      return kBlocksAmx;
#endif
#ifdef ICMH_SIMD_X86
    case KernelLevel::avx512:
      return kBlocksAvx512;
    case KernelLevel::avx2:
      return kBlocksAvx2;
#endif
#ifdef ICMH_SIMD_NEON
    case KernelLevel::neon:
      return kBlocksNeon;
#endif
    default:
      return kBlocksScalar;
  }
}

}  // namespace icmh::kernels
