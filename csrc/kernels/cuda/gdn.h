// Generalized divisive normalization (icmh_rt/kernels/gdn.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// out = x / sqrt(beta (C) + gamma (C, C) x²), or x sqrt(...) if `inverse`; x, out (N, C, H, W).
// Half precision sums the squares in float, from operands that are rounded to bfloat16.
int icmh_cuda_gdn(const void* x, const void* beta, const void* gamma, int64_t pitch, int inverse,
                  void* out, int64_t n, int64_t channels, int64_t height, int64_t width, int dtype,
                  int layout, void* stream);

}  // extern "C"
