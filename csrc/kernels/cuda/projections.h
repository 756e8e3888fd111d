// Merged 1x1 projections of an SFMA adapter (icmh_rt/kernels/projections.py), for CUDA.
//
// All launchers in this folder: device pointers, sizes, `dtype` (0 float, 1 half, 2 bfloat16),
// `layout` of all maps (0 NCHW, 1 NHWC), a cudaStream_t. They queue their work and return a
// cudaError_t. Nothing overlaps unless it is said. Empty maps are allowed.
#pragma once

#include <cstdint>

extern "C" {

// out (N, M, H, W) = weight (M, C) x (N, C, H, W) + bias (M); `pitch` elements between the weight's
// rows.
int icmh_cuda_project_down(const void* x, const void* weight, int64_t pitch, const void* bias,
                           void* out, int64_t n, int64_t channels, int64_t channels_out,
                           int64_t height, int64_t width, int dtype, int layout, void* stream);

// out (N, C, H, W) = residual + factor (weight (C, 2K) cat(spatial, relu(planes)) + bias (C));
// spatial and planes are (N, K, H, W). `out` may be `residual`. planes are of `planes_dtype`,
// `dtype` or float, and of `planes_layout`, `layout` or NCHW; but float NHWC beside half precision
// is not supported.
int icmh_cuda_project_up(const void* spatial, const void* planes, const void* weight, int64_t pitch,
                         const void* bias, const void* residual, float factor, void* out, int64_t n,
                         int64_t middle, int64_t channels, int64_t height, int64_t width,
                         int planes_dtype, int planes_layout, int dtype, int layout, void* stream);

}  // extern "C"
