// Layers of the default codec's transforms on a CPU, one after the other, for several images at a
// time: a layer's weights are read once for all of them, which for small images take longer to come
// than to be multiplied, and only the first and the last maps are anybody else's.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/convolution_cpu.h"
#include "kernels/level.h"

namespace icmh::kernels {

// A channels-last map.
struct MapSize {
  std::int64_t height, width, channels;
  std::int64_t floats() const { return height * width * channels; }
};

struct ChainImage {
  std::int64_t height, width;
  const void* in;  // what the first layer takes
  void* out;       // what the last layer gives
  // Of the picture, where pixels are the last layer: what of the map is wanted from its first
  // corner on.
  std::int64_t rows = 0, columns = 0;
};

// A pool's loop: work(0) ... work(tasks - 1), each once, on as many threads as it will.
using ParallelFor =
    std::function<void(std::size_t tasks, const std::function<void(std::size_t)>& work)>;

class LayerChain {
 public:
  static constexpr float kNoBound = std::numeric_limits<float>::infinity();

  LayerChain(KernelLevel level, Precision precision) : level_(level), precision_(precision) {}

  // First of all layers, if it is one: bytes (height, width, 3) to pixel_unshuffle(pixels, patch),
  // each pixel as `table` has it, 256 floats. Sides grow to multiples of `multiple`, of the patch
  // as well, by repeating the border.
  void add_patches(std::int64_t patch, std::int64_t multiple, const float* table);
  // First of all layers, if it is one: a map with that many channels, its sides likewise grown.
  void add_extension(std::int64_t channels, std::int64_t multiple);
  // `packed` by convolution_pack or depth_conv_pack for this chain's level and precision; the
  // caller keeps it. Results are cut to ±bound.
  void add_convolution(const Convolution& of, const float* packed, float bound = kNoBound);
  void add_depth_conv(std::int64_t channels, const float* packed, float bound = kNoBound);

  // A map (h, w, factor^2 C) whose channels are factor^2 maps of C, to (factor h, factor w, C):
  // position (i, j) of each square is map factor i + j.
  void add_shuffle(std::int64_t factor);
  // Last of all layers, if it is one: pixel_shuffle(map, patch) as bytes (rows, columns, 3), by
  // image_out of kernels/images_cpu.h.
  void add_pixels(std::int64_t patch, float offset);

  // Of the result, for an input of that size; of a picture, its whole map's.
  MapSize result(std::int64_t height, std::int64_t width) const;
  // Floats of `memory` that run needs for images, of which only the sizes are looked at.
  std::int64_t memory(const std::vector<ChainImage>& images) const;
  // What an image gets does not depend on the others, nor on the number of threads.
  void run(const std::vector<ChainImage>& images, unsigned threads, const ParallelFor& loop,
           float* memory) const;

 private:
  struct Layer {
    enum class Kind { patches, extension, convolution, depth_conv, shuffle, pixels } kind;
    Convolution convolution;  // of a depth-conv block its channels alone
    const float* packed = nullptr;
    float bound = kNoBound;
    std::int64_t patch = 1, multiple = 1;
    std::vector<float> table = {};
    float offset = 0.0f;
  };

  MapSize after(const Layer& layer, const MapSize& size) const;
  // The sizes of an image's maps, that of the input first.
  std::vector<MapSize> sizes(std::int64_t height, std::int64_t width) const;
  std::vector<std::vector<MapSize>> sizes_of(const std::vector<ChainImage>& images) const;

  KernelLevel level_;
  Precision precision_;
  std::vector<Layer> layers_;
};

}  // namespace icmh::kernels
