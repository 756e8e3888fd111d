#include "common/simd.h"

#ifdef ICMH_SIMD_NEON

#define ICMH_VECTOR_NEON
#define ICMH_TARGET
#include "kernels/blocks_loops.h"

namespace icmh::kernels {

const BlocksLevel kBlocksNeon = kLevelBlocks;

}  // namespace icmh::kernels

#endif  // ICMH_SIMD_NEON
