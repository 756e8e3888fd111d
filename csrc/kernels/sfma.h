// SFMA on a CPU in five passes (icmh_rt/kernels/sfma.py has the mathematics):
//
//   down        planes = f_down x
//   analyse     Y = rfft2(planes)
//   gate        Y' = Y sigmoid(f_inter relu(dw3x3 |Y|)) / (height width)
//   synthesise  planes = the inverse of Y', without the factor
//   up          out = x + factor (s_up relu(dw5x5(s_down1 x) s_down2 x) + f_up relu(planes))
//
// Everything between one pass's inputs and its outputs stays in a core's cache: a few rows, a panel
// or a plane. Each call does a part of a pass on the calling thread; parts write different places.
#pragma once

#include <cstdint>

#include "kernels/level.h"

namespace icmh::kernels {

// One image's feature map: value (c, i, j) at data[c channel + i row + j column]. Of channel and
// column one is 1 and the other at least as large as makes the places differ.
struct ConstMap {
  const float* data;
  std::int64_t channel, row, column;
};
struct Map {
  float* data;
  std::int64_t channel, row, column;
};

// Weights, row-major as PyTorch keeps them, in the order of icmh_rt/kernels/sfma.py.
struct SfmaWeights {
  const float *s_down1, *s_down1_bias;  // (middle, channels), (middle)
  const float *s_down2, *s_down2_bias;
  const float *f_down, *f_down_bias;
  const float *s_dw, *s_dw_bias;        // (middle, 5, 5)
  const float *f_dw, *f_dw_bias;        // (middle, 3, 3)
  const float *f_inter, *f_inter_bias;  // (middle, middle)
  const float *s_up, *s_up_bias;        // (channels, middle), (channels)
  const float *f_up, *f_up_bias;
};
struct SfmaSizes {
  std::int64_t channels, middle, height, width;
  float factor;
};

// Floats that sfma_pack writes: all weights in the order in which a level's loops read them.
std::int64_t sfma_packed_size(KernelLevel level, const SfmaSizes& sizes);
void sfma_pack(KernelLevel level, const SfmaSizes& sizes, const SfmaWeights& weights, float* packed);

// planes (middle, height, width), contiguous, of the rows [begin, end).
void sfma_down(KernelLevel level, const SfmaSizes& sizes, const float* packed, const ConstMap& x,
               std::int64_t begin, std::int64_t end, float* planes);

// Whether there is a transform for these sizes (kernels/fft.h).
bool sfma_has_fft(const SfmaSizes& sizes);

// Floats of a spectrum: for every plane and row the real parts, then the imaginary parts.
std::int64_t sfma_spectrum_size(KernelLevel level, const SfmaSizes& sizes);

// Of the planes [begin, end). False, and nothing is done, if there is no transform.
bool sfma_analyse(KernelLevel level, const SfmaSizes& sizes, const float* planes, std::int64_t begin,
                  std::int64_t end, float* spectrum);
bool sfma_synthesise(KernelLevel level, const SfmaSizes& sizes, float* spectrum, std::int64_t begin,
                     std::int64_t end, float* planes);

// Of the rows [begin, end); not in place.
void sfma_gate(KernelLevel level, const SfmaSizes& sizes, const float* packed, const float* spectrum,
               std::int64_t begin, std::int64_t end, float* gated);

// `out` of the rows [begin, end); not in place.
void sfma_up(KernelLevel level, const SfmaSizes& sizes, const float* packed, const ConstMap& x,
             const float* planes, std::int64_t begin, std::int64_t end, const Map& out);

}  // namespace icmh::kernels
