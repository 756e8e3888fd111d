#include "kernels/depth_conv_block_cpu.h"

#include "kernels/blocks_level.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {

std::int64_t depth_conv_packed_size(KernelLevel level, Precision precision,
                                    std::int64_t channels) {
  return blocks_of(level, channels, precision).depth_conv_packed_size(channels);
}

void depth_conv_pack(KernelLevel level, Precision precision, std::int64_t channels,
                     const DepthConvWeights& weights, float* packed) {
  blocks_of(level, channels, precision).depth_conv_pack(channels, weights, packed);
}

void depth_conv_block(KernelLevel level, Precision precision, const DepthConvMaps& maps,
                      const float* packed, std::int64_t begin, std::int64_t end) {
  const BlocksLevel& loops = blocks_of(level, maps.channels, precision);
  loops.depth_conv_rows(maps, packed, begin, end,
                        scratch(loops.depth_conv_scratch(maps.channels, maps.width)));
}

}  // namespace icmh::kernels
