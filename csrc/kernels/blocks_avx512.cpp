#include "common/simd.h"

#ifdef ICMH_SIMD_X86

#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define ICMH_VECTOR_AVX512
#define ICMH_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))
#include "kernels/blocks_level.h"
#include "kernels/convolution_loops.h"
#include "kernels/depth_conv_block_loops.h"
#include "kernels/gdn_loops.h"

namespace icmh::kernels {

const BlocksLevel kBlocksAvx512 = {
    level_depth_conv_packed_size, level_depth_conv_pack, level_depth_conv_scratch,
    level_depth_conv_rows,        level_gdn_packed_size, level_gdn_pack,
    level_gdn_scratch,            level_gdn_positions,
    level_convolution_packed_size, level_convolution_pack, level_convolution_scratch,
    level_convolution_positions,
};

}  // namespace icmh::kernels

#endif  // ICMH_SIMD_X86
