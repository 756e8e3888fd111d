#include "kernels/level.h"

#ifdef ICMH_SIMD_AMX

#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define ICMH_VECTOR_AVX512
#define ICMH_TILES
#define ICMH_TARGET \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,amx-tile,amx-bf16")))
#include "kernels/adapter_ops_loops.h"
#include "kernels/sfma_loops.h"

namespace icmh::kernels {

const SfmaLevel kSfmaAmx = {
    level_packed_size, level_pack,    level_down_scratch, level_down,
    level_fft_scratch, level_spectrum_size, level_analyse, level_synthesise,
    level_gate_scratch, level_gate,   level_up_scratch,   level_up,
};

const AdapterOpsLevel kAdapterOpsAmx = {
    level_project_packed_size,    level_project_pack,  level_project_scratch,
    level_project,                level_modulate_scratch, level_modulate,
    level_frequency_gate_scratch, level_frequency_gate,
};

}  // namespace icmh::kernels

#endif  // ICMH_SIMD_AMX
