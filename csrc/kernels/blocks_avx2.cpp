#include "common/simd.h"

#ifdef ICMH_SIMD_X86

#define ICMH_VECTOR_AVX2
#define ICMH_TARGET __attribute__((target("avx2,fma")))
#include "kernels/blocks_loops.h"

namespace icmh::kernels {

const BlocksLevel kBlocksAvx2 = kLevelBlocks;

}  // namespace icmh::kernels

#endif  // ICMH_SIMD_X86
