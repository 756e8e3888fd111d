#include "kernels/depth_conv_block_cpu.h"

#include "kernels/blocks_level.h"

namespace icmh::kernels {

std::int64_t depth_conv_packed_size(SimdLevel level, std::int64_t channels) {
  return blocks_of(level).depth_conv_packed_size(channels);
}

void depth_conv_pack(SimdLevel level, std::int64_t channels, const DepthConvWeights& weights,
                     float* packed) {
  blocks_of(level).depth_conv_pack(channels, weights, packed);
}

void depth_conv_block(SimdLevel level, const DepthConvMaps& maps, const float* packed,
                      std::int64_t begin, std::int64_t end) {
  const BlocksLevel& loops = blocks_of(level);
  loops.depth_conv_rows(maps, packed, begin, end,
                        blocks_scratch(loops.depth_conv_scratch(maps.channels, maps.width)));
}

}  // namespace icmh::kernels
