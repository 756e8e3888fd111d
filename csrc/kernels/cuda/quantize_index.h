// Latents to symbols and scale indexes (icmh_rt/kernels/quantize_index.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// symbols = clamp(round_half_to_even(latent * gain - mean), ±2^17), both operations rounded to
// float, 0 for a NaN; indexes = how many thresholds are below the scale, all of them for a NaN;
// `bad` (1) is increased by the values and scales that are not allowed. latent, mean, scales float
// (N, C, H, W) of `layout`, gain (C), thresholds (count <= 255) ascending; mean, gain and scales
// may be null, and indexes with scales.
int icmh_cuda_quantize_index(const float* latent, const float* mean, const float* gain,
                             const float* scales, const float* thresholds, int64_t count,
                             int32_t* symbols, uint8_t* indexes, int32_t* bad, int64_t n,
                             int64_t channels, int64_t height, int64_t width, int layout,
                             void* stream);

}  // extern "C"
