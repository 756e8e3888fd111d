#include "common/simd.h"

#define ICMH_VECTOR_SCALAR
#define ICMH_TARGET
#include "kernels/blocks_loops.h"

namespace icmh::kernels {

const BlocksLevel kBlocksScalar = kLevelBlocks;

}  // namespace icmh::kernels
