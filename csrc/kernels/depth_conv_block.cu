// Four launches, all of them in pointwise.cu. Between them lie one map each: the activations of the
// depthwise convolution's neighbourhood, the block's middle, and the gated product.
#include "kernels/cuda/depth_conv_block.h"

#include "kernels/cuda/pointwise.h"

using namespace icmh::kernels;

int icmh_cuda_depth_conv_block(const void* x, const void* mix_in_weight, int64_t mix_in_pitch,
                               const void* mix_in_bias, const void* spatial_weight,
                               const void* spatial_bias, const void* mix_out_weight,
                               int64_t mix_out_pitch, const void* mix_out_bias,
                               const void* gate_weight, int64_t gate_pitch, const void* gate_bias,
                               const void* value_weight, int64_t value_pitch,
                               const void* value_bias, const void* out_weight, int64_t out_pitch,
                               const void* out_bias, void* workspace, void* out, int64_t n,
                               int64_t channels, int64_t height, int64_t width, int dtype,
                               int layout, void* stream) {
  Pointwise shape;
  shape.images = n, shape.height = height, shape.width = width;
  shape.channels = static_cast<int>(channels), shape.channels_out = static_cast<int>(channels);
  shape.dtype = dtype, shape.layout = layout;

  Pointwise mix_in = shape;
  mix_in.x = x, mix_in.out = workspace;
  mix_in.weight = {mix_in_weight, mix_in_pitch}, mix_in.bias = mix_in_bias;
  mix_in.epilogue = Epilogue::kSilu;

  Pointwise mix_out = shape;
  mix_out.x = workspace, mix_out.other = x, mix_out.out = out;
  mix_out.depthwise_weight = spatial_weight, mix_out.depthwise_bias = spatial_bias;
  mix_out.prologue = Prologue::kDepthwise;
  mix_out.weight = {mix_out_weight, mix_out_pitch}, mix_out.bias = mix_out_bias;
  mix_out.epilogue = Epilogue::kAddScaled;

  Pointwise gated = shape;
  gated.x = out, gated.out = workspace;
  gated.weight = {gate_weight, gate_pitch}, gated.bias = gate_bias;
  gated.value_weight = {value_weight, value_pitch}, gated.value_bias = value_bias;

  Pointwise last = shape;
  last.x = workspace, last.other = out, last.out = out;
  last.weight = {out_weight, out_pitch}, last.bias = out_bias;
  last.epilogue = Epilogue::kAddScaled;

  const Pointwise steps[] = {mix_in, mix_out, gated, last};
  for (const Pointwise& step : steps) {
    const int error = pointwise(step, stream);
    if (error != 0) return error;
  }
  return 0;
}
