// What a caller without CUDA's headers needs to know about the device and about errors.
#pragma once

extern "C" {

// cudaSuccess if the current device can run the kernels of this library.
int icmh_cuda_ready();

// The text of a cudaError_t.
const char* icmh_cuda_error_text(int error);

}  // extern "C"
