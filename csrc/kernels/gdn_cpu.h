// Generalized divisive normalization on a CPU (icmh_rt/kernels/gdn.py has the mathematics).
#pragma once

#include <cstdint>

#include "kernels/level.h"

namespace icmh::kernels {

// One image's feature map: value (c, p) at data[c channel + p position]. Of channel and position one
// is 1, and the same one for both maps or not.
struct GdnMaps {
  std::int64_t channels;
  const float* x;
  std::int64_t x_channel, x_position;
  float* out;  // may be x
  std::int64_t out_channel, out_position;
  bool inverse;
};

// Floats that gdn_pack writes; gamma (C, C), rows `stride` floats apart, beta (C).
std::int64_t gdn_packed_size(KernelLevel level, std::int64_t channels);
void gdn_pack(KernelLevel level, std::int64_t channels, const float* gamma, std::int64_t stride,
              const float* beta, float* packed);

// Positions [begin, end), on the calling thread.
void gdn(KernelLevel level, const GdnMaps& maps, const float* packed, std::int64_t begin,
         std::int64_t end);

}  // namespace icmh::kernels
