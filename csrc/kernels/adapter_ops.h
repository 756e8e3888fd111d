// The steps of SFMA by themselves on a CPU, for who combines them otherwise: the ops of
// icmh_rt/kernels/{projections,spatial_modulation,frequency_gate}.py. The adapter as a whole runs
// faster (kernels/sfma.h). Each call does a part on the calling thread; parts write different
// places.
#pragma once

#include <cstdint>

#include "kernels/level.h"
#include "kernels/sfma.h"

namespace icmh::kernels {

// out = factor (weight cat(first, relu(second)) + bias) + residual, for the positions [begin, end)
// of maps whose rows follow one another: position p of channel c at data[c channel + p column].
// `second` and `residual` may be absent (data null, inputs 0).
struct Projection {
  ConstMap first, second, residual;
  std::int64_t first_inputs, second_inputs, outputs;
  const float *weight, *bias;  // (outputs, first_inputs + second_inputs), (outputs)
  float factor;
  Map out;
};
// Floats for the packed weights, which project_pack writes and project reads.
std::int64_t project_packed_size(KernelLevel level, const Projection& projection);
void project_pack(KernelLevel level, const Projection& projection, float* packed);
void project(KernelLevel level, const Projection& projection, const float* packed,
             std::int64_t begin, std::int64_t end);

// out = relu((dw5x5(x) + bias) other) of the rows [begin, end) of one image; weight (channels, 25).
struct Modulation {
  ConstMap x, other;
  std::int64_t channels, height, width;
  const float *weight, *bias;
  Map out;
};
void modulate(KernelLevel level, const Modulation& modulation, std::int64_t begin,
              std::int64_t end);

// out = spectrum sigmoid(mix relu(dw3x3 |spectrum| + dw_bias) + mix_bias) of the rows [begin, end)
// of one image: complex (channels, height, columns), contiguous, interleaved; not in place.
struct FrequencyGate {
  const float* spectrum;
  std::int64_t channels, height, columns;
  const float *dw, *dw_bias, *mix, *mix_bias;  // (channels, 9), (channels, channels)
  float* out;
};
void frequency_gate(KernelLevel level, const FrequencyGate& gate, std::int64_t begin,
                    std::int64_t end);

}  // namespace icmh::kernels
