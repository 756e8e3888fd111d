// Pixels to the patches that transforms work on, and back, in one pass each.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace icmh::kernels {

// pixel_unshuffle(pad(f(image)), patch), f given as a table of what becomes of each byte.
struct ImageIn {
  const std::uint8_t* image;  // (count, image_height, image_width, 3)
  std::int64_t image_height, image_width;
  // The padded map (height, width), of whole patches; the image begins at (top, left) of it, and
  // what lies outside of it is cut off.
  std::int64_t top, left, height, width;
  bool edge;  // repeat the border, else black
  std::int64_t patch;
  const void* table;            // 256 values
  std::int32_t bytes_of_value;  // 2 or 4
  // (count, 3 * patch^2, height / patch, width / patch), or with the channels last.
  void* planes;
  bool channels_last;
};

// Rows of patches [begin, end) of all count * height / patch.
void image_in(const ImageIn& maps, std::int64_t begin, std::int64_t end);

// clamp(round_half_even((pixel_shuffle(planes) + offset) * 255), 0, 255), 0 for NaN, of the window
// (height, width) that begins at (top, left).
struct ImageOut {
  const float* planes;  // (count, 3 * patch^2, rows, columns), or with the channels last
  bool channels_last;
  std::int64_t rows, columns;
  std::int64_t top, left, height, width;
  std::int64_t patch;
  float offset;
  std::uint8_t* image;  // (count, height, width, 3)
};

// Rows of pixels [begin, end) of all count * height.
void image_out(const ImageOut& maps, std::int64_t begin, std::int64_t end,
               SimdLevel level = simd_level());

}  // namespace icmh::kernels
