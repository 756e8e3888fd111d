#include "kernels/blocks_level.h"

#include "kernels/level_loops.h"

namespace icmh::kernels {

const BlocksLevel& blocks_of(KernelLevel level, std::int64_t channels, Precision precision) {
  // Tiles of fewer channels are half empty, and sums so short that roundings do not even out.
  constexpr std::int64_t kFewestOfTiles = 32;
  if (level == KernelLevel::amx && channels < kFewestOfTiles) level = KernelLevel::avx512;
#ifdef ICMH_SIMD_AMX
  if (level == KernelLevel::amx && precision == Precision::bfloat16) return kBlocksAmxBfloat16;
#else
  static_cast<void>(precision);
#endif
  ICMH_RETURN_LOOPS(level, kBlocks)
}

}  // namespace icmh::kernels
