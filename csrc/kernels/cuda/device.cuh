// What all kernels share: number types, 16-byte packs, launching.
//
// Kernels use the subset of CUDA that tests/kernels/cuda_on_host imitates on a CPU, where the same
// sources run under sanitizers: launch() instead of <<<>>>, ICMH_SHARED for shared memory (once in
// a kernel), and no communication between threads but __syncthreads, atomicAdd and nvcuda::wmma.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <mma.h>
#define ICMH_SHARED(Type, name) __shared__ Type name
#else
#include "cuda_on_host.h"
#endif

namespace icmh::kernels {

// Codes of the C launchers.
enum Dtype : int { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };
enum Layout : int { kNchw = 0, kNhwc = 1 };

inline __host__ __device__ int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline __device__ float to_float(float value) { return value; }
inline __device__ float to_float(__half value) { return __half2float(value); }
inline __device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ T from_float(float value);
template <>
inline __device__ float from_float<float>(float value) { return value; }
template <>
inline __device__ __half from_float<__half>(float value) { return __float2half_rn(value); }
template <>
inline __device__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// An element of a tensor whose type is known at run time: for weights, which are read once.
inline __device__ float element(const void* data, int64_t index, int dtype) {
  if (dtype == kFloat32) return static_cast<const float*>(data)[index];
  if (dtype == kFloat16) return to_float(static_cast<const __half*>(data)[index]);
  return to_float(static_cast<const __nv_bfloat16*>(data)[index]);
}

// These keep a NaN, as torch does; fmaxf(NaN, 0) would be 0.
inline __device__ float relu(float value) { return value < 0.0f ? 0.0f : value; }
inline __device__ float sigmoid(float value) { return 1.0f / (1.0f + expf(-value)); }
inline __device__ float silu(float value) { return value / (1.0f + expf(-value)); }

// kSize neighbours in memory, moved with one instruction where they are aligned.
template <typename T, int kSize = 16 / sizeof(T)>
struct alignas(kSize * sizeof(T)) Pack {
  T at[kSize];
};

// `count` (any number, also <= 0) of the elements at `from` exist, the others read as 0. `aligned`
// promises that `from` is aligned to the pack.
template <typename T, int kSize>
__device__ void load(Pack<T, kSize>& pack, const T* from, int64_t count, bool aligned) {
  if (aligned && count >= kSize) {
    pack = *reinterpret_cast<const Pack<T, kSize>*>(from);
    return;
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) pack.at[i] = i < count ? from[i] : from_float<T>(0.0f);
}

template <typename T, int kSize>
__device__ void store(const Pack<T, kSize>& pack, T* to, int64_t count, bool aligned) {
  if (aligned && count >= kSize) {
    *reinterpret_cast<Pack<T, kSize>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if (i < count) to[i] = pack.at[i];
  }
}

inline bool aligned_to(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

#ifdef __CUDACC__
// Queues the kernel and returns a cudaError_t.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
           Arguments... arguments) {
  if (blocks == 0) return cudaSuccess;
  if (blocks < 0 || blocks > INT32_MAX) return cudaErrorInvalidValue;
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
}
#endif

template <typename T>
struct Type {
  using type = T;
};

// Calls `run` with the Type of the code; cudaErrorInvalidValue for an unknown one.
template <typename Run>
int with_dtype(int dtype, Run run) {
  switch (dtype) {
    case kFloat32: return run(Type<float>());
    case kFloat16: return run(Type<__half>());
    case kBfloat16: return run(Type<__nv_bfloat16>());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace icmh::kernels
