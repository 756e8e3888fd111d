#include "kernels/blocks_level.h"

namespace icmh::kernels {

const BlocksLevel& blocks_of(KernelLevel level) {
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
