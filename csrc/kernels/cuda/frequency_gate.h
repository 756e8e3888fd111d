// The gate of SFMA's frequency branch (icmh_rt/kernels/frequency_gate.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// out = spectrum * sigmoid(mix(relu(dw3x3 |spectrum| + dw_bias)) + mix_bias); spectrum and out
// complex64 (N, C, H, W), of `layout`; dw_weight (C, 9), mix_weight (C, C) and the biases (C)
// contiguous and of `dtype`. Computes in float.
int icmh_cuda_frequency_gate(const void* spectrum, const void* dw_weight, const void* dw_bias,
                             const void* mix_weight, const void* mix_bias, void* out, int64_t n,
                             int64_t channels, int64_t height, int64_t width, int dtype, int layout,
                             void* stream);

}  // extern "C"
