#include "kernels/layer_parts.h"

#include <algorithm>

namespace icmh::kernels {
namespace {

constexpr std::int64_t kPositions = 192;  // of a convolution, worth a part of their own
constexpr std::int64_t kParts = 4;        // for each thread, where there are many positions
constexpr std::int64_t kRows = 8;         // of a block, which repeats one projection of two more

std::int64_t parts_of(std::int64_t length, std::int64_t step) { return (length - 1) / step + 1; }

void add_parts(std::int64_t image, std::int64_t length, std::int64_t step,
               std::vector<LayerPart>* parts) {
  for (std::int64_t begin = 0; begin < length; begin += step) {
    parts->push_back({image, begin, std::min(begin + step, length)});
  }
}

// Whether an image each is enough for the threads to come out even.
bool one_each(std::int64_t images, std::int64_t threads) {
  return threads == 1 || images >= 2 * threads;
}

}  // namespace

void add_convolution_parts(std::int64_t image, std::int64_t images, std::int64_t positions,
                           unsigned threads, std::vector<LayerPart>* parts) {
  const std::int64_t most = threads * kParts;
  std::int64_t step = positions;
  if (!one_each(images, threads)) {
    step = positions >= most * kPositions
               ? parts_of(positions, most * kPositions) * kPositions
               : std::max(parts_of(positions, threads), kPositions / 2);
  }
  add_parts(image, positions, step, parts);
}

void add_depth_conv_parts(std::int64_t image, std::int64_t images, std::int64_t rows,
                          unsigned threads, std::vector<LayerPart>* parts) {
  std::int64_t bands = 1;
  if (!one_each(images, threads)) {
    // Two for each thread even out threads of unequal speed, where they have many rows.
    bands = threads * (rows >= 4 * threads * kRows ? 2 : 1);
  }
  add_parts(image, rows, std::max(kRows, parts_of(rows, bands)), parts);
}

}  // namespace icmh::kernels
