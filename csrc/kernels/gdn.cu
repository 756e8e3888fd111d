#include "kernels/cuda/gdn.h"

#include "kernels/cuda/pointwise.h"

using namespace icmh::kernels;

int icmh_cuda_gdn(const void* x, const void* beta, const void* gamma, int64_t pitch, int inverse,
                  void* out, int64_t n, int64_t channels, int64_t height, int64_t width, int dtype,
                  int layout, void* stream) {
  Pointwise task;
  task.images = n, task.height = height, task.width = width;
  task.channels = channels, task.channels_out = channels;
  task.x = x, task.prologue = Prologue::kSquare;
  task.weight = {gamma, pitch}, task.bias = beta, task.out = out;
  task.other = x, task.epilogue = inverse ? Epilogue::kTimesSqrt : Epilogue::kTimesRsqrt;
  task.dtype = dtype, task.layout = layout;
  return pointwise(task, stream);
}
