// Bytes of interleaved pixels to and from patches: pure data movement. A thread writes one pack of
// neighbours; what it gathers for that comes from L1, where other threads of the block need the
// same lines. Every operation is rounded by itself, as the reference's.
#include "kernels/cuda/images.h"

#include "kernels/cuda/device.cuh"

namespace icmh::kernels {
namespace {

constexpr int kThreads = 256;

struct Window {
  int64_t n, image_height, image_width;    // of the bytes
  int64_t plane_height, plane_width;       // of the maps
  int64_t top, left;
  int patch, edge, layout;
  float offset;
};

struct At {
  int64_t image, channel, row, column;  // in the maps
};

inline __device__ At at_of(const Window& window, int64_t index) {
  const int64_t channels = 3 * window.patch * window.patch;
  if (window.layout == kNhwc) {
    const int64_t channel = index % channels, column = index / channels % window.plane_width;
    const int64_t row = index / channels / window.plane_width;
    return {row / window.plane_height, channel, row % window.plane_height, column};
  }
  const int64_t column = index % window.plane_width, row = index / window.plane_width;
  const int64_t plane = row / window.plane_height;
  return {plane / channels, plane % channels, row % window.plane_height, column};
}

inline __device__ int64_t index_of(const Window& window, const At& at) {
  const int64_t channels = 3 * window.patch * window.patch;
  if (window.layout == kNhwc) {
    return ((at.image * window.plane_height + at.row) * window.plane_width + at.column) * channels +
           at.channel;
  }
  return ((at.image * channels + at.channel) * window.plane_height + at.row) * window.plane_width +
         at.column;
}

inline __device__ int64_t clamp_to(int64_t value, int64_t size) {
  return value < 0 ? 0 : value >= size ? size - 1 : value;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    image_in_kernel(const uint8_t* image, T* out, Window window, int64_t size) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (first >= size) return;
  Pack<T> pack;
  for (int i = 0; i < kPack && first + i < size; ++i) {
    const At at = at_of(window, first + i);
    const int in_patch = static_cast<int>(at.channel) % (window.patch * window.patch);
    int64_t row = at.row * window.patch + in_patch / window.patch - window.top;
    int64_t column = at.column * window.patch + in_patch % window.patch - window.left;
    bool inside = true;
    if (window.edge) {
      row = clamp_to(row, window.image_height);
      column = clamp_to(column, window.image_width);
    } else {
      inside = row >= 0 && row < window.image_height && column >= 0 && column < window.image_width;
    }
    const int color = static_cast<int>(at.channel) / (window.patch * window.patch);
    const int64_t from =
        ((at.image * window.image_height + row) * window.image_width + column) * 3 + color;
    const float value = inside ? static_cast<float>(image[from]) : 0.0f;
    pack.at[i] = from_float<T>(__fsub_rn(__fdiv_rn(value, 255.0f), window.offset));
  }
  store(pack, out + first, size - first, true);
}

constexpr int kBytes = 4;  // a thread writes

template <typename T>
__global__ void __launch_bounds__(kThreads)
    image_out_kernel(const T* planes, uint8_t* image, Window window, int64_t size) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kBytes;
  if (first >= size) return;
  Pack<uint8_t, kBytes> pack;
  for (int i = 0; i < kBytes && first + i < size; ++i) {
    const int64_t pixel = (first + i) / 3, line = pixel / window.image_width;
    const int64_t row = line % window.image_height + window.top;
    const int64_t column = pixel % window.image_width + window.left;
    const int64_t channel = ((first + i) % 3 * window.patch + row % window.patch) * window.patch +
                            column % window.patch;
    const At at{line / window.image_height, channel, row / window.patch, column / window.patch};
    const float value =
        rintf(__fmul_rn(__fadd_rn(to_float(planes[index_of(window, at)]), window.offset), 255.0f));
    // A NaN fails both comparisons.
    pack.at[i] = static_cast<uint8_t>(value >= 255.0f ? 255.0f : value > 0.0f ? value : 0.0f);
  }
  // Allocations are aligned to more than a pack, and packs are counted from their start.
  if (first + kBytes <= size && reinterpret_cast<uintptr_t>(image) % kBytes == 0) {
    *reinterpret_cast<Pack<uint8_t, kBytes>*>(image + first) = pack;
  } else {
    for (int i = 0; i < kBytes && first + i < size; ++i) image[first + i] = pack.at[i];
  }
}

}  // namespace
}  // namespace icmh::kernels

using namespace icmh::kernels;

int icmh_cuda_image_in(const uint8_t* image, int64_t n, int64_t image_height, int64_t image_width,
                       int64_t top, int64_t left, int64_t height, int64_t width, int edge,
                       int64_t patch, float offset, void* out, int dtype, int layout,
                       void* stream) {
  if (patch < 1 || !aligned_to(out, 16)) return cudaErrorInvalidValue;
  const Window window{n,   image_height, image_width, height / patch,          width / patch,
                      top, left,         static_cast<int>(patch), edge, layout, offset};
  const int64_t size = n * 3 * height * width;
  return with_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const int64_t packs = ceil_div(size, 16 / sizeof(T));
    return launch(image_in_kernel<T>, ceil_div(packs, kThreads), kThreads, stream, image,
                  static_cast<T*>(out), window, size);
  });
}

int icmh_cuda_image_out(const void* planes, int64_t n, int64_t plane_height, int64_t plane_width,
                        int64_t top, int64_t left, int64_t height, int64_t width, int64_t patch,
                        float offset, uint8_t* image, int dtype, int layout, void* stream) {
  if (patch < 1) return cudaErrorInvalidValue;
  const Window window{n,   height, width, plane_height,           plane_width,
                      top, left,   static_cast<int>(patch), 0, layout, offset};
  const int64_t size = n * height * width * 3;
  return with_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return launch(image_out_kernel<T>, ceil_div(ceil_div(size, kBytes), kThreads), kThreads, stream,
                  static_cast<const T*>(planes), image, window, size);
  });
}
