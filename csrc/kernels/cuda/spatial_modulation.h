// 5x5 depthwise convolution times a gate (icmh_rt/kernels/spatial_modulation.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// out = relu((dw5x5(x) + bias) * other); x, other, out (N, C, H, W), weight (C, 25), bias (C).
int icmh_cuda_spatial_modulation(const void* x, const void* other, const void* weight,
                                 const void* bias, void* out, int64_t n, int64_t channels,
                                 int64_t height, int64_t width, int dtype, int layout,
                                 void* stream);

}  // extern "C"
