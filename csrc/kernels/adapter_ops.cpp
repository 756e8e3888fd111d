#include "kernels/adapter_ops.h"

#include "kernels/adapter_ops_level.h"
#include "kernels/level_loops.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {
namespace {

const AdapterOpsLevel& loops_of(KernelLevel level) {
  ICMH_RETURN_LOOPS(level, kAdapterOps)
}

}  // namespace

std::int64_t project_packed_size(KernelLevel level, const Projection& projection) {
  return loops_of(level).project_packed_size(projection);
}

void project_pack(KernelLevel level, const Projection& projection, float* packed) {
  loops_of(level).project_pack(projection, packed);
}

void project(KernelLevel level, const Projection& projection, const float* packed,
             std::int64_t begin, std::int64_t end) {
  const AdapterOpsLevel& loops = loops_of(level);
  loops.project(projection, packed, begin, end, scratch(loops.project_scratch(projection)));
}

void modulate(KernelLevel level, const Modulation& modulation, std::int64_t begin,
              std::int64_t end) {
  const AdapterOpsLevel& loops = loops_of(level);
  loops.modulate(modulation, begin, end, scratch(loops.modulate_scratch(modulation)));
}

void frequency_gate(KernelLevel level, const FrequencyGate& gate, std::int64_t begin,
                    std::int64_t end) {
  const AdapterOpsLevel& loops = loops_of(level);
  loops.gate(gate, begin, end, scratch(loops.gate_scratch(gate)));
}

}  // namespace icmh::kernels
