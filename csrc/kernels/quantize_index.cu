// A thread has one value: 4 to 12 bytes in, 5 out, and a search in the thresholds, which lie in
// shared memory.
#include "kernels/cuda/quantize_index.h"

#include "kernels/cuda/device.cuh"

namespace icmh::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxThresholds = 255;
constexpr float kSymbolLimit = 131072.0f;

struct Latents {
  const float *latent, *mean, *gain, *scales, *thresholds;
  int32_t* symbols;
  uint8_t* indexes;
  int32_t* bad;
  int64_t size, channels, plane;  // the channel of value i is i / plane % channels
  int thresholds_count;
};

__global__ void __launch_bounds__(kThreads) quantize_kernel(Latents task) {
  struct Shared {
    float thresholds[kMaxThresholds + 1];
  };
  ICMH_SHARED(Shared, shared);
  for (int i = threadIdx.x; i < task.thresholds_count; i += kThreads) {
    shared.thresholds[i] = task.thresholds[i];
  }
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= task.size) return;
  int bad = 0;
  float value = task.latent[i];
  // These are never contracted to a fused multiply-add, which rounds once.
  if (task.gain != nullptr) {
    value = __fmul_rn(value, task.gain[i / task.plane % task.channels]);
  }
  if (task.mean != nullptr) value = __fsub_rn(value, task.mean[i]);
  bad += !isfinite(value);
  value = value != value ? 0.0f : fminf(fmaxf(rintf(value), -kSymbolLimit), kSymbolLimit);
  task.symbols[i] = static_cast<int32_t>(value);
  if (task.scales != nullptr) {
    const float scale = task.scales[i];
    bad += scale != scale;
    // The first threshold that is not below the scale; a NaN goes behind the last one.
    int first = 0, last = task.thresholds_count;
    while (first < last) {
      const int middle = (first + last) / 2;
      if (shared.thresholds[middle] >= scale) {
        last = middle;
      } else {
        first = middle + 1;
      }
    }
    task.indexes[i] = static_cast<uint8_t>(first);
  }
  if (bad != 0) atomicAdd(task.bad, bad);
}

}  // namespace
}  // namespace icmh::kernels

using namespace icmh::kernels;

int icmh_cuda_quantize_index(const float* latent, const float* mean, const float* gain,
                             const float* scales, const float* thresholds, int64_t count,
                             int32_t* symbols, uint8_t* indexes, int32_t* bad, int64_t n,
                             int64_t channels, int64_t height, int64_t width, int layout,
                             void* stream) {
  if (count < 0 || count > kMaxThresholds) return cudaErrorInvalidValue;
  const int64_t size = n * channels * height * width;
  const Latents task{latent, mean,     gain,                               scales,
                     thresholds,       symbols, indexes, bad, size, channels,
                     layout == kNhwc ? 1 : height * width, static_cast<int>(count)};
  return launch(quantize_kernel, ceil_div(size, kThreads), kThreads, stream, task);
}
