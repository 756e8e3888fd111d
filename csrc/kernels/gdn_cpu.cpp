#include "kernels/gdn_cpu.h"

#include "kernels/blocks_level.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {

std::int64_t gdn_packed_size(KernelLevel level, std::int64_t channels) {
  return blocks_of(level, channels).gdn_packed_size(channels);
}

void gdn_pack(KernelLevel level, std::int64_t channels, const float* gamma, std::int64_t stride,
              const float* beta, float* packed) {
  blocks_of(level, channels).gdn_pack(channels, gamma, stride, beta, packed);
}

void gdn(KernelLevel level, const GdnMaps& maps, const float* packed, std::int64_t begin,
         std::int64_t end) {
  const BlocksLevel& loops = blocks_of(level, maps.channels);
  loops.gdn_positions(maps, packed, begin, end, scratch(loops.gdn_scratch(maps.channels)));
}

}  // namespace icmh::kernels
