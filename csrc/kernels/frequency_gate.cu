// A block computes the gates of 4 x 16 frequencies for up to 16 * kRowsOfThread channels. It walks
// along the input channels in steps of 16: amplitudes with a border of 1 to shared memory, from
// them the convolved ones, and from those a rank-16 update of the sums, which stay in registers. At
// the end it reads its part of the spectrum again, from L2, and writes it scaled.
#include "kernels/cuda/frequency_gate.h"

#include "kernels/cuda/device.cuh"

namespace icmh::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 4, kTileColumns = 16;
constexpr int kTile = kTileRows * kTileColumns;
constexpr int kBorderedColumns = kTileColumns + 2;
constexpr int kBordered = (kTileRows + 2) * kBorderedColumns;
constexpr int kDepth = 16;  // input channels of a step
constexpr int kGroups = 16;  // of threads with the same output channels

struct alignas(8) Complex {
  float real, imaginary;
};

struct Spectra {
  const Complex* spectrum;
  const void *dw_weight, *dw_bias, *mix_weight, *mix_bias;
  Complex* out;
  int64_t channels, height, width;
  int dtype;
};

// A thread has kRowsOfThread channels of the 4 frequencies of one column.
template <int kRowsOfThread, bool kLast>
__global__ void __launch_bounds__(kThreads) gate_kernel(Spectra task) {
  constexpr int kRows = kRowsOfThread * kGroups;  // output channels of the block
  using Four = Pack<float, 4>;
  struct alignas(16) Shared {
    float weights[kDepth][kRows + 4];   // [k][channel]
    float convolved[kDepth][kTile];     // [k][column * kTileRows + row]
    float amplitudes[kDepth][kBordered + 1];
    float taps[kDepth][9];
    float bias[kDepth];
  };
  ICMH_SHARED(Shared, shared);
  const int thread = threadIdx.x;
  const int64_t row_blocks = ceil_div(task.channels, kRows);
  const int64_t across = ceil_div(task.width, kTileColumns);
  const int64_t down = ceil_div(task.height, kTileRows);
  const int64_t first_channel = blockIdx.x % row_blocks * kRows;
  const int64_t left = blockIdx.x / row_blocks % across * kTileColumns;
  const int64_t top = blockIdx.x / row_blocks / across % down * kTileRows;
  const int64_t image = blockIdx.x / row_blocks / across / down;
  const auto offset = [&](int64_t channel, int64_t row, int64_t column) {
    return kLast ? ((image * task.height + row) * task.width + column) * task.channels + channel
                 : ((image * task.channels + channel) * task.height + row) * task.width + column;
  };

  const int column = thread % kTileColumns, group = thread / kTileColumns;
  float sums[kRowsOfThread][kTileRows];
#pragma unroll
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t channel = first_channel + group * kRowsOfThread + r;
    const float bias =
        channel < task.channels ? element(task.mix_bias, channel, task.dtype) : 0.0f;
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) sums[r][i] = bias;
  }

  for (int64_t k = 0; k < task.channels; k += kDepth) {
    const int64_t depth = task.channels - k < kDepth ? task.channels - k : kDepth;
    __syncthreads();
    for (int i = thread; i < kDepth * kBordered; i += kThreads) {
      const int channel = kLast ? i % kDepth : i / kBordered;
      const int position = kLast ? i / kDepth : i % kBordered;
      const int64_t row = top + position / kBorderedColumns - 1;
      const int64_t from_left = left + position % kBorderedColumns - 1;
      float amplitude = 0.0f;
      if (channel < depth && row >= 0 && row < task.height && from_left >= 0 &&
          from_left < task.width) {
        const Complex value = task.spectrum[offset(k + channel, row, from_left)];
        amplitude = sqrtf(value.real * value.real + value.imaginary * value.imaginary);
      }
      shared.amplitudes[channel][position] = amplitude;
    }
    for (int i = thread; i < kDepth * kRows; i += kThreads) {
      const int64_t channel = first_channel + i / kDepth;
      shared.weights[i % kDepth][i / kDepth] =
          i % kDepth < depth && channel < task.channels
              ? element(task.mix_weight, channel * task.channels + k + i % kDepth, task.dtype)
              : 0.0f;
    }
    if (thread < kDepth * 9) {
      shared.taps[thread / 9][thread % 9] =
          thread / 9 < depth ? element(task.dw_weight, k * 9 + thread, task.dtype) : 0.0f;
    }
    if (thread < kDepth) {
      shared.bias[thread] = thread < depth ? element(task.dw_bias, k + thread, task.dtype) : 0.0f;
    }
    __syncthreads();
    for (int i = thread; i < kDepth * kTile; i += kThreads) {
      const int channel = i / kTile, position = i % kTile;
      const int row = position % kTileRows, from_left = position / kTileRows;
      const float* amplitudes = shared.amplitudes[channel] + row * kBorderedColumns + from_left;
      float sum = shared.bias[channel];
#pragma unroll
      for (int tap = 0; tap < 9; ++tap) {
        sum += shared.taps[channel][tap] * amplitudes[tap / 3 * kBorderedColumns + tap % 3];
      }
      shared.convolved[channel][position] = relu(sum);
    }
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < kDepth; ++j) {
      const Four values =
          *reinterpret_cast<const Four*>(shared.convolved[j] + column * kTileRows);
#pragma unroll
      for (int r = 0; r < kRowsOfThread; r += 4) {
        const Four weights = *reinterpret_cast<const Four*>(shared.weights[j] +
                                                            group * kRowsOfThread + r);
#pragma unroll
        for (int a = 0; a < 4; ++a) {
#pragma unroll
          for (int i = 0; i < kTileRows; ++i) sums[r + a][i] += weights.at[a] * values.at[i];
        }
      }
    }
  }

  if (left + column >= task.width) return;
#pragma unroll
  for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
    for (int r = 0; r < kRowsOfThread; ++r) {
      const int64_t channel = first_channel + group * kRowsOfThread + r;
      if (channel >= task.channels || top + i >= task.height) continue;
      const int64_t place = offset(channel, top + i, left + column);
      const float gate = sigmoid(sums[r][i]);
      const Complex value = task.spectrum[place];
      task.out[place] = {value.real * gate, value.imaginary * gate};
    }
  }
}

template <int kRowsOfThread>
int queue(const Spectra& task, int64_t n, int layout, void* stream) {
  const int64_t blocks = n * ceil_div(task.height, kTileRows) *
                         ceil_div(task.width, kTileColumns) *
                         ceil_div(task.channels, kRowsOfThread * kGroups);
  return layout == kNhwc ? launch(gate_kernel<kRowsOfThread, true>, blocks, kThreads, stream, task)
                         : launch(gate_kernel<kRowsOfThread, false>, blocks, kThreads, stream,
                                  task);
}

}  // namespace
}  // namespace icmh::kernels

using namespace icmh::kernels;

int icmh_cuda_frequency_gate(const void* spectrum, const void* dw_weight, const void* dw_bias,
                             const void* mix_weight, const void* mix_bias, void* out, int64_t n,
                             int64_t channels, int64_t height, int64_t width, int dtype, int layout,
                             void* stream) {
  if (dtype < kFloat32 || dtype > kBfloat16) return cudaErrorInvalidValue;
  const Spectra task{static_cast<const Complex*>(spectrum),
                     dw_weight,
                     dw_bias,
                     mix_weight,
                     mix_bias,
                     static_cast<Complex*>(out),
                     channels,
                     height,
                     width,
                     dtype};
  if (channels <= 4 * kGroups) return queue<4>(task, n, layout, stream);
  if (channels <= 8 * kGroups) return queue<8>(task, n, layout, stream);
  return queue<16>(task, n, layout, stream);
}
