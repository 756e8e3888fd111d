#include "kernels/cuda/projections.h"

#include "kernels/cuda/pointwise.h"

using namespace icmh::kernels;

int icmh_cuda_project_down(const void* x, const void* weight, int64_t pitch, const void* bias,
                           void* out, int64_t n, int64_t channels, int64_t channels_out,
                           int64_t height, int64_t width, int dtype, int layout, void* stream) {
  Pointwise task;
  task.images = n, task.height = height, task.width = width;
  task.channels = static_cast<int>(channels), task.channels_out = static_cast<int>(channels_out);
  task.x = x, task.weight = {weight, pitch}, task.bias = bias, task.out = out;
  task.dtype = dtype, task.layout = layout;
  return pointwise(task, stream);
}

int icmh_cuda_project_up(const void* spatial, const void* planes, const void* weight, int64_t pitch,
                         const void* bias, const void* residual, float factor, void* out, int64_t n,
                         int64_t middle, int64_t channels, int64_t height, int64_t width,
                         int planes_dtype, int planes_layout, int dtype, int layout, void* stream) {
  Pointwise task;
  task.images = n, task.height = height, task.width = width;
  task.channels = task.second_channels = static_cast<int>(middle);
  task.channels_out = static_cast<int>(channels);
  task.x = spatial, task.second = planes;
  task.second_wide = planes_dtype != dtype;
  task.second_planes = planes_layout != layout;
  task.weight = {weight, pitch}, task.bias = bias, task.out = out;
  task.other = residual, task.factor = factor, task.epilogue = Epilogue::kAddScaled;
  task.dtype = dtype, task.layout = layout;
  if ((task.second_wide && planes_dtype != 0) || (task.second_planes && planes_layout != 0) ||
      (task.second_wide && planes_layout != 0)) {
    return 1;  // cudaErrorInvalidValue
  }
  return pointwise(task, stream);
}
