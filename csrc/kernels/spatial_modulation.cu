// A block computes a tile of one plane (NCHW) or of 32 channels (NHWC), from a copy of the input
// with its border of 2 in shared memory: global memory is read once, but for the borders.
#include "kernels/cuda/spatial_modulation.h"

#include "kernels/cuda/device.cuh"

namespace icmh::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kBorder = 2;
constexpr int kTaps = 5;

struct Maps {
  const void* x;
  const void* other;
  const void* weight;
  const void* bias;
  void* out;
  int64_t images, channels, height, width;
};

// NCHW: 32 x 64 values, 2 rows of 4 for each thread.
constexpr int kPlaneRows = 32, kPlaneColumns = 64;
constexpr int kFour = 4;
// Columns -4 ... 67: the border of 2, and 2 more so that every row starts with a whole pack.
constexpr int kPlanePitch = kPlaneColumns + 2 * kFour;

template <typename T>
__global__ void __launch_bounds__(kThreads) modulate_planes(Maps maps, bool aligned) {
  struct alignas(16) Shared {
    float x[(kPlaneRows + 2 * kBorder) * kPlanePitch];
  };
  ICMH_SHARED(Shared, shared);
  const int64_t across = ceil_div(maps.width, kPlaneColumns);
  const int64_t down = ceil_div(maps.height, kPlaneRows);
  const int64_t left = blockIdx.x % across * kPlaneColumns;
  const int64_t top = blockIdx.x / across % down * kPlaneRows;
  const int64_t plane = blockIdx.x / across / down;
  const int64_t channel = plane % maps.channels;
  const int64_t origin = plane * maps.height * maps.width;

  constexpr int kPacks = kPlanePitch / kFour;
  for (int i = threadIdx.x; i < (kPlaneRows + 2 * kBorder) * kPacks; i += kThreads) {
    const int64_t row = top + i / kPacks - kBorder;
    const int64_t column = left + i % kPacks * kFour - kFour;
    Pack<T, kFour> values;
    const bool inside = row >= 0 && row < maps.height && column >= 0;
    load(values, static_cast<const T*>(maps.x) + (inside ? origin + row * maps.width + column : 0),
         inside ? maps.width - column : 0, aligned);
    Pack<float, kFour> wide;
#pragma unroll
    for (int j = 0; j < kFour; ++j) wide.at[j] = to_float(values.at[j]);
    *reinterpret_cast<Pack<float, kFour>*>(shared.x + i * kFour) = wide;
  }
  float weight[kTaps * kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps * kTaps; ++tap) {
    weight[tap] = to_float(static_cast<const T*>(maps.weight)[channel * kTaps * kTaps + tap]);
  }
  const float bias = to_float(static_cast<const T*>(maps.bias)[channel]);
  __syncthreads();

  const int first_row = threadIdx.x / (kPlaneColumns / kFour) * 2;
  const int first_column = threadIdx.x % (kPlaneColumns / kFour) * kFour;
  float sums[2][kFour];
#pragma unroll
  for (int j = 0; j < kFour; ++j) sums[0][j] = sums[1][j] = bias;
#pragma unroll
  for (int u = 0; u < kTaps + 1; ++u) {
    // Values of the columns first_column - 4 ... first_column + 7.
    float row[3 * kFour];
    const float* from = shared.x + (first_row + u) * kPlanePitch + first_column;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      const auto values = *reinterpret_cast<const Pack<float, kFour>*>(from + j * kFour);
#pragma unroll
      for (int i = 0; i < kFour; ++i) row[j * kFour + i] = values.at[i];
    }
#pragma unroll
    for (int v = 0; v < kTaps; ++v) {
#pragma unroll
      for (int j = 0; j < kFour; ++j) {
        const float value = row[kFour - kBorder + v + j];
        if (u < kTaps) sums[0][j] += weight[u * kTaps + v] * value;
        if (u > 0) sums[1][j] += weight[(u - 1) * kTaps + v] * value;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = top + first_row + r, column = left + first_column;
    if (row >= maps.height || column >= maps.width) continue;
    const int64_t offset = origin + row * maps.width + column, count = maps.width - column;
    Pack<T, kFour> other, out;
    load(other, static_cast<const T*>(maps.other) + offset, count, aligned);
#pragma unroll
    for (int j = 0; j < kFour; ++j) {
      out.at[j] = from_float<T>(relu(sums[r][j] * to_float(other.at[j])));
    }
    store(out, static_cast<T*>(maps.out) + offset, count, aligned);
  }
}

// NHWC: 8 x 16 positions of 32 channels; a warp has a row, its lanes the channels.
constexpr int kTileRows = 8, kTileColumns = 16, kTileChannels = 32;
constexpr int kTileWidth = kTileColumns + 2 * kBorder;

template <typename T>
__global__ void __launch_bounds__(kThreads) modulate_channels(Maps maps, bool aligned) {
  struct alignas(16) Shared {
    float x[(kTileRows + 2 * kBorder) * kTileWidth * kTileChannels];
  };
  ICMH_SHARED(Shared, shared);
  const int64_t groups = ceil_div(maps.channels, kTileChannels);
  const int64_t across = ceil_div(maps.width, kTileColumns);
  const int64_t down = ceil_div(maps.height, kTileRows);
  const int64_t first_channel = blockIdx.x % groups * kTileChannels;
  const int64_t left = blockIdx.x / groups % across * kTileColumns;
  const int64_t top = blockIdx.x / groups / across % down * kTileRows;
  const int64_t origin = blockIdx.x / groups / across / down * maps.height;  // in rows

  constexpr int kPacks = kTileChannels / kFour;
  for (int i = threadIdx.x; i < (kTileRows + 2 * kBorder) * kTileWidth * kPacks; i += kThreads) {
    const int64_t row = top + i / kPacks / kTileWidth - kBorder;
    const int64_t column = left + i / kPacks % kTileWidth - kBorder;
    const int64_t channel = first_channel + i % kPacks * kFour;
    const bool inside = row >= 0 && row < maps.height && column >= 0 && column < maps.width;
    const int64_t offset = ((origin + row) * maps.width + column) * maps.channels + channel;
    Pack<T, kFour> values;
    load(values, static_cast<const T*>(maps.x) + (inside ? offset : 0),
         inside ? maps.channels - channel : 0, aligned);
    Pack<float, kFour> wide;
#pragma unroll
    for (int j = 0; j < kFour; ++j) wide.at[j] = to_float(values.at[j]);
    *reinterpret_cast<Pack<float, kFour>*>(shared.x + i * kFour) = wide;
  }
  const int lane = threadIdx.x % kTileChannels, tile_row = threadIdx.x / kTileChannels;
  const int64_t channel = first_channel + lane;
  float weight[kTaps * kTaps], bias = 0.0f;
#pragma unroll
  for (int tap = 0; tap < kTaps * kTaps; ++tap) weight[tap] = 0.0f;
  if (channel < maps.channels) {
#pragma unroll
    for (int tap = 0; tap < kTaps * kTaps; ++tap) {
      weight[tap] = to_float(static_cast<const T*>(maps.weight)[channel * kTaps * kTaps + tap]);
    }
    bias = to_float(static_cast<const T*>(maps.bias)[channel]);
  }
  __syncthreads();

  float sums[kTileColumns];
#pragma unroll
  for (int j = 0; j < kTileColumns; ++j) sums[j] = bias;
#pragma unroll
  for (int u = 0; u < kTaps; ++u) {
    const float* from = shared.x + (tile_row + u) * kTileWidth * kTileChannels + lane;
#pragma unroll
    for (int column = 0; column < kTileWidth; ++column) {
      const float value = from[column * kTileChannels];
#pragma unroll
      for (int v = 0; v < kTaps; ++v) {
        if (column - v >= 0 && column - v < kTileColumns) {
          sums[column - v] += weight[u * kTaps + v] * value;
        }
      }
    }
  }
  const int64_t row = top + tile_row;
  if (channel >= maps.channels || row >= maps.height) return;
#pragma unroll
  for (int j = 0; j < kTileColumns; ++j) {
    if (left + j >= maps.width) continue;
    const int64_t offset = ((origin + row) * maps.width + left + j) * maps.channels + channel;
    const float other = to_float(static_cast<const T*>(maps.other)[offset]);
    static_cast<T*>(maps.out)[offset] = from_float<T>(relu(sums[j] * other));
  }
}

}  // namespace
}  // namespace icmh::kernels

using namespace icmh::kernels;

int icmh_cuda_spatial_modulation(const void* x, const void* other, const void* weight,
                                 const void* bias, void* out, int64_t n, int64_t channels,
                                 int64_t height, int64_t width, int dtype, int layout,
                                 void* stream) {
  const Maps maps{x, other, weight, bias, out, n, channels, height, width};
  return with_dtype(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int kBytes = kFour * sizeof(T);
    const bool aligned = aligned_to(x, kBytes) && aligned_to(other, kBytes) &&
                         aligned_to(out, kBytes) &&
                         (layout == kNhwc ? channels : width) % kFour == 0;
    if (layout == kNhwc) {
      return launch(modulate_channels<T>,
                    n * ceil_div(height, kTileRows) * ceil_div(width, kTileColumns) *
                        ceil_div(channels, kTileChannels),
                    kThreads, stream, maps, aligned);
    }
    return launch(modulate_planes<T>,
                  n * channels * ceil_div(height, kPlaneRows) * ceil_div(width, kPlaneColumns),
                  kThreads, stream, maps, aligned);
  });
}
