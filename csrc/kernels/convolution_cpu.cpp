#include "kernels/convolution_cpu.h"

#include "kernels/blocks_level.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {

std::int64_t convolution_packed_size(KernelLevel level, Precision precision,
                                     const Convolution& of) {
  return blocks_of(level, of.depth(), precision).convolution_packed_size(of);
}

void convolution_pack(KernelLevel level, Precision precision, const Convolution& of,
                      const float* weight, const float* bias, float* packed) {
  blocks_of(level, of.depth(), precision).convolution_pack(of, weight, bias, packed);
}

void convolution(KernelLevel level, Precision precision, const Convolution& of,
                 const ConvolutionMaps& maps, const float* packed, std::int64_t begin,
                 std::int64_t end) {
  const BlocksLevel& loops = blocks_of(level, of.depth(), precision);
  loops.convolution_positions(of, maps, packed, begin, end,
                              scratch(loops.convolution_scratch(of)));
}

}  // namespace icmh::kernels
