#include "common/simd.h"

#define ICMH_VECTOR_SCALAR
#define ICMH_TARGET 
#include "kernels/adapter_ops_loops.h"
#include "kernels/sfma_loops.h"

namespace icmh::kernels {

const SfmaLevel kSfmaScalar = {
    level_packed_size, level_pack,    level_down_scratch, level_down,
    level_fft_scratch, level_spectrum_size, level_analyse, level_synthesise,
    level_gate_scratch, level_gate,   level_up_scratch,   level_up,
};

const AdapterOpsLevel kAdapterOpsScalar = {
    level_project_packed_size,    level_project_pack,  level_project_scratch,
    level_project,                level_modulate_scratch, level_modulate,
    level_frequency_gate_scratch, level_frequency_gate,
};

}  // namespace icmh::kernels
