// What a level's source file gives to kernels/sfma.cpp. `scratch` is memory of the calling thread
// with as many floats as the function beside it says.
#pragma once

#include <cstdint>

#include "kernels/fft.h"
#include "kernels/sfma.h"

namespace icmh::kernels {

// SfmaWeights with what is computed together as one matrix.
struct SfmaLevelWeights {
  const float *s_down, *s_down_bias;  // (2 middle, channels): s_down1, s_down2
  const float *f_down, *f_down_bias;
  const float *s_dw, *s_dw_bias, *f_dw, *f_dw_bias, *f_inter, *f_inter_bias;
  const float *up, *up_bias;  // (channels, 2 middle): factor times s_up, f_up; (channels)
};

struct SfmaLevel {
  std::int64_t (*packed_size)(const SfmaSizes&);
  void (*pack)(const SfmaSizes&, const SfmaLevelWeights&, float* packed);
  std::int64_t (*down_scratch)(const SfmaSizes&);
  void (*down)(const SfmaSizes&, const float* packed, const ConstMap& x, std::int64_t begin,
               std::int64_t end, float* planes, float* scratch);
  std::int64_t (*fft_scratch)(const SfmaSizes&);
  std::int64_t (*spectrum_size)(const SfmaSizes&);
  void (*analyse)(const SfmaSizes&, const FftPlan& rows, const FftPlan& columns,
                  const float* planes, std::int64_t begin, std::int64_t end, float* spectrum,
                  float* scratch);
  void (*synthesise)(const SfmaSizes&, const FftPlan& rows, const FftPlan& columns,
                     float* spectrum, std::int64_t begin, std::int64_t end, float* planes,
                     float* scratch);
  std::int64_t (*gate_scratch)(const SfmaSizes&);
  void (*gate)(const SfmaSizes&, const float* packed, const float* spectrum, std::int64_t begin,
               std::int64_t end, float* gated, float* scratch);
  std::int64_t (*up_scratch)(const SfmaSizes&);
  void (*up)(const SfmaSizes&, const float* packed, const ConstMap& x, const float* planes,
             std::int64_t begin, std::int64_t end, const Map& out, float* scratch);
};

extern const SfmaLevel kSfmaScalar, kSfmaNeon, kSfmaAvx2, kSfmaAvx512, kSfmaAmx;

}  // namespace icmh::kernels
