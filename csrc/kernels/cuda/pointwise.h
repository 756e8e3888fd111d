// 1x1 convolutions with what comes before and after them: the matrix products of all ops but the
// frequency gate.
#pragma once

#include <cstdint>

namespace icmh::kernels {

// What is done to the first input's values; the second's go through ReLU.
enum class Prologue : int {
  kPlain,
  kSquare,      // x²; half precision is squared in bfloat16, whose range is that of float
  kDepthwise,   // a depthwise 3x3 convolution
};

// What is done to the sum s = W x + b.
enum class Epilogue : int {
  kPlain,
  kSilu,        // s sigmoid(s)
  kAddScaled,   // other + factor s
  kTimesRsqrt,  // other / sqrt(s)
  kTimesSqrt,   // other sqrt(s)
};

// A (M, K) matrix; `pitch` elements from row to row, 0 where it is null.
struct Matrix {
  const void* data = nullptr;
  int64_t pitch = 0;
};

// out (N, M, H, W) from x (N, K - K2, H, W) and, if there is one, second (N, K2, H, W), whose
// channels follow those of x. All of one dtype and layout; `out` may be `other`.
struct Pointwise {
  int64_t images = 0, height = 0, width = 0;
  int channels = 0;         // K - K2
  int second_channels = 0;  // K2
  int channels_out = 0;     // M
  const void* x = nullptr;
  const void* second = nullptr;
  bool second_wide = false;    // second is float beside half precision ...
  bool second_planes = false;  // ... and NCHW beside NHWC: as an inverse FFT gives it
  const void* depthwise_weight = nullptr;  // (K, 9)
  const void* depthwise_bias = nullptr;    // (K)
  Matrix weight;
  const void* bias = nullptr;  // (M)
  Matrix value_weight;         // if there is one, the sum is silu(W x + b) (V x + v)
  const void* value_bias = nullptr;
  const void* other = nullptr;  // like out
  float factor = 1.0f;
  void* out = nullptr;
  Prologue prologue = Prologue::kPlain;
  Epilogue epilogue = Epilogue::kPlain;
  int dtype = 0;
  int layout = 0;
};

// Queues it on `stream`; returns a cudaError_t.
int pointwise(const Pointwise& task, void* stream);

}  // namespace icmh::kernels
