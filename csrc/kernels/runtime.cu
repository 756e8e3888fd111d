#include "kernels/cuda/runtime.h"

#include <cuda_runtime.h>

namespace {
__global__ void nothing() {}
}  // namespace

int icmh_cuda_ready() {
  // Fails without a device, with a driver that is too old, and where no machine code fits.
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, nothing);
  if (error != cudaSuccess) cudaGetLastError();  // so that it is not the next launch's
  return error;
}

const char* icmh_cuda_error_text(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
