// What a level's source file gives to depth_conv_block_cpu.cpp, gdn_cpu.cpp and
// convolution_cpu.cpp. `memory` is the
// calling thread's, of as many floats as the function beside it says.
#pragma once

#include <cstdint>

#include "kernels/convolution_cpu.h"
#include "kernels/depth_conv_block_cpu.h"
#include "kernels/gdn_cpu.h"

namespace icmh::kernels {

struct BlocksLevel {
  std::int64_t (*depth_conv_packed_size)(std::int64_t channels);
  void (*depth_conv_pack)(std::int64_t channels, const DepthConvWeights&, float* packed);
  std::int64_t (*depth_conv_scratch)(std::int64_t channels, std::int64_t width);
  void (*depth_conv_rows)(const DepthConvMaps&, const float* packed, std::int64_t begin,
                          std::int64_t end, float* memory);
  std::int64_t (*gdn_packed_size)(std::int64_t channels);
  void (*gdn_pack)(std::int64_t channels, const float* gamma, std::int64_t stride,
                   const float* beta, float* packed);
  std::int64_t (*gdn_scratch)(std::int64_t channels);
  void (*gdn_positions)(const GdnMaps&, const float* packed, std::int64_t begin, std::int64_t end,
                        float* memory);
  std::int64_t (*convolution_packed_size)(const Convolution&);
  void (*convolution_pack)(const Convolution&, const float* weight, const float* bias,
                           float* packed);
  std::int64_t (*convolution_scratch)(const Convolution&);
  void (*convolution_positions)(const Convolution&, const ConvolutionMaps&, const float* packed,
                                std::int64_t begin, std::int64_t end, float* memory);
};

extern const BlocksLevel kBlocksScalar, kBlocksNeon, kBlocksAvx2, kBlocksAvx512, kBlocksAmx,
    kBlocksAmxBfloat16;

// The loops of a level that this CPU has, for maps of so many channels.
const BlocksLevel& blocks_of(KernelLevel level, std::int64_t channels,
                             Precision precision = Precision::float32);

}  // namespace icmh::kernels
