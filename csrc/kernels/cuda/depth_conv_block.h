// The default codec's depth-conv block (icmh_rt/kernels/depth_conv_block.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// y = x + mix_out(dw3x3(silu(mix_in x))), out = y + out(silu(gate y) * value y); x, out and
// workspace (N, C, H, W), the depthwise weight (C, 9) contiguous, the others (C, C) with `pitch`
// elements between the rows of each, biases (C).
int icmh_cuda_depth_conv_block(const void* x, const void* mix_in_weight, int64_t mix_in_pitch,
                               const void* mix_in_bias, const void* spatial_weight,
                               const void* spatial_bias, const void* mix_out_weight,
                               int64_t mix_out_pitch, const void* mix_out_bias,
                               const void* gate_weight, int64_t gate_pitch, const void* gate_bias,
                               const void* value_weight, int64_t value_pitch,
                               const void* value_bias, const void* out_weight, int64_t out_pitch,
                               const void* out_bias, void* workspace, void* out, int64_t n,
                               int64_t channels, int64_t height, int64_t width, int dtype,
                               int layout, void* stream);

}  // extern "C"
