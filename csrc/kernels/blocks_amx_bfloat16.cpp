#include "kernels/level.h"

#ifdef ICMH_SIMD_AMX

#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define ICMH_VECTOR_AVX512
#define ICMH_TILES
#define ICMH_BFLOAT16
#define ICMH_TARGET \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,amx-tile,amx-bf16")))
#include "kernels/blocks_loops.h"

namespace icmh::kernels {

const BlocksLevel kBlocksAmxBfloat16 = kLevelBlocks;

}  // namespace icmh::kernels

#endif  // ICMH_SIMD_AMX
