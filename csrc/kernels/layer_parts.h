// How threads share a layer of the default codec: parts of its maps, for images together.
#pragma once

#include <cstdint>
#include <vector>

namespace icmh::kernels {

// Rows or positions [begin, end) of an image's result.
struct LayerPart {
  std::int64_t image, begin, end;
};

// Of a convolution's `positions`, appended. A part reads all weights, so there are few of them.
void add_convolution_parts(std::int64_t image, std::int64_t images, std::int64_t positions,
                           unsigned threads, std::vector<LayerPart>* parts);

// Of a depth-conv block's `rows`, appended: few as well, for each repeats some of its neighbours'
// work.
void add_depth_conv_parts(std::int64_t image, std::int64_t images, std::int64_t rows,
                          unsigned threads, std::vector<LayerPart>* parts);

}  // namespace icmh::kernels
