// 8-bit images to and from the transforms' feature maps (icmh_rt/kernels/images.py), for CUDA.
// What all launchers have in common is said in projections.h.
#pragma once

#include <cstdint>

extern "C" {

// out (N, 3 patch², height / patch, width / patch) = pixel_unshuffle(pad(image) / 255 - offset):
// image uint8 (N, image_height, image_width, 3) lies at (top, left) of a padded (height, width),
// which continues its border (`edge`) or is black.
int icmh_cuda_image_in(const uint8_t* image, int64_t n, int64_t image_height, int64_t image_width,
                       int64_t top, int64_t left, int64_t height, int64_t width, int edge,
                       int64_t patch, float offset, void* out, int dtype, int layout, void* stream);

// image uint8 (N, height, width, 3) = the window at (top, left) of
// clamp(rint((pixel_shuffle(planes) + offset) * 255), 0, 255), 0 for a NaN; planes
// (N, 3 patch², plane_height, plane_width).
int icmh_cuda_image_out(const void* planes, int64_t n, int64_t plane_height, int64_t plane_width,
                        int64_t top, int64_t left, int64_t height, int64_t width, int64_t patch,
                        float offset, uint8_t* image, int dtype, int layout, void* stream);

}  // extern "C"
