// The depth-conv block of the default codec on a CPU (icmh_rt/kernels/depth_conv_block.py has the
// mathematics): all between x and the result stays in a core's cache.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/level.h"

namespace icmh::kernels {

// One image's feature map: value (c, p) at data[c channel + p position], p counting along the rows.
// Of channel and position one is 1.
struct DepthConvMaps {
  std::int64_t channels, height, width;
  const float* x;
  std::int64_t x_channel, x_position;
  float* out;  // not x: rows of x are read again after their neighbours are written
  std::int64_t out_channel, out_position;
};

// Row-major, as PyTorch keeps them; rows of the matrices (C, C) may be further apart than C.
struct DepthConvMatrix {
  const float* weight;
  std::int64_t stride;
  const float* bias;
};
struct DepthConvWeights {
  DepthConvMatrix mix_in, mix_out, gate, value, out;
  const float *spatial, *spatial_bias;  // (C, 3, 3), (C)
};

// Floats that depth_conv_pack writes: all weights in the order in which a level's loops read them.
std::int64_t depth_conv_packed_size(KernelLevel level, Precision precision, std::int64_t channels);
void depth_conv_pack(KernelLevel level, Precision precision, std::int64_t channels,
                     const DepthConvWeights& weights, float* packed);

// Rows [begin, end) of the result, on the calling thread. A call also computes one projection of
// the row before and of the row behind.
void depth_conv_block(KernelLevel level, Precision precision, const DepthConvMaps& maps, const float* packed,
                      std::int64_t begin, std::int64_t end);

}  // namespace icmh::kernels
