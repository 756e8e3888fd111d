// Dense convolutions of the default codec on a CPU, 1x1 and 3x3, of channels-last maps: products of
// kernels/tokens.h. What a position gets does not depend on the map's size or the part it is in.
#pragma once

#include <cstdint>

#include "kernels/level.h"

namespace icmh::kernels {

struct Convolution {
  std::int64_t channels, outputs;
  std::int64_t side;    // 1 or 3; beyond the border there are side / 2 positions of zeros
  std::int64_t stride;  // positions between two of the result
  bool silu = false;    // of the sums; weights are packed the same

  std::int64_t depth() const { return side * side * channels; }
  std::int64_t length_of(std::int64_t length) const { return (length - 1) / stride + 1; }
};

// One image's maps: x (height, width, channels), out (its height, its width, outputs).
struct ConvolutionMaps {
  std::int64_t height, width;
  const float* x;
  float* out;
};

// Floats that convolution_pack writes; weight (outputs, side, side, channels), bias (outputs).
std::int64_t convolution_packed_size(KernelLevel level, Precision precision, const Convolution& of);
void convolution_pack(KernelLevel level, Precision precision, const Convolution& of,
                      const float* weight, const float* bias, float* packed);

// Positions [begin, end) of the result, on the calling thread.
void convolution(KernelLevel level, Precision precision, const Convolution& of,
                 const ConvolutionMaps& maps, const float* packed, std::int64_t begin,
                 std::int64_t end);

}  // namespace icmh::kernels
