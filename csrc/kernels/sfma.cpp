#include "kernels/sfma.h"

#include <cstddef>
#include <vector>

#include "kernels/sfma_level.h"
#include "kernels/level_loops.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {
namespace {

const SfmaLevel& loops_of(KernelLevel level) {
  ICMH_RETURN_LOOPS(level, kSfma)
}

}  // namespace

std::int64_t sfma_packed_size(KernelLevel level, const SfmaSizes& sizes) {
  return loops_of(level).packed_size(sizes);
}

void sfma_pack(KernelLevel level, const SfmaSizes& sizes, const SfmaWeights& weights, float* packed) {
  const std::int64_t middle = sizes.middle;
  std::vector<float> up(static_cast<std::size_t>(2 * middle * sizes.channels));
  std::vector<float> up_bias(static_cast<std::size_t>(sizes.channels));
  for (std::int64_t c = 0; c < sizes.channels; ++c) {
    for (std::int64_t k = 0; k < middle; ++k) {
      up[2 * middle * c + k] = sizes.factor * weights.s_up[middle * c + k];
      up[2 * middle * c + middle + k] = sizes.factor * weights.f_up[middle * c + k];
    }
    up_bias[c] = sizes.factor * (weights.s_up_bias[c] + weights.f_up_bias[c]);
  }
  const SfmaWeights& w = weights;
  std::vector<float> down(w.s_down1, w.s_down1 + middle * sizes.channels);
  down.insert(down.end(), w.s_down2, w.s_down2 + middle * sizes.channels);
  std::vector<float> down_bias(w.s_down1_bias, w.s_down1_bias + middle);
  down_bias.insert(down_bias.end(), w.s_down2_bias, w.s_down2_bias + middle);
  loops_of(level).pack(sizes,
                       {down.data(), down_bias.data(), w.f_down, w.f_down_bias, w.s_dw,
                        w.s_dw_bias, w.f_dw, w.f_dw_bias, w.f_inter, w.f_inter_bias, up.data(),
                        up_bias.data()},
                       packed);
}

void sfma_down(KernelLevel level, const SfmaSizes& sizes, const float* packed, const ConstMap& x,
               std::int64_t begin, std::int64_t end, float* planes) {
  const SfmaLevel& loops = loops_of(level);
  loops.down(sizes, packed, x, begin, end, planes, scratch(loops.down_scratch(sizes)));
}

bool sfma_has_fft(const SfmaSizes& sizes) {
  return fft_plan(sizes.height) != nullptr && fft_plan(sizes.width) != nullptr;
}

std::int64_t sfma_spectrum_size(KernelLevel level, const SfmaSizes& sizes) {
  return loops_of(level).spectrum_size(sizes);
}

bool sfma_analyse(KernelLevel level, const SfmaSizes& sizes, const float* planes, std::int64_t begin,
                  std::int64_t end, float* spectrum) {
  const auto rows = fft_plan(sizes.width), columns = fft_plan(sizes.height);
  if (rows == nullptr || columns == nullptr) return false;
  const SfmaLevel& loops = loops_of(level);
  loops.analyse(sizes, *rows, *columns, planes, begin, end, spectrum,
                scratch(loops.fft_scratch(sizes)));
  return true;
}

bool sfma_synthesise(KernelLevel level, const SfmaSizes& sizes, float* spectrum, std::int64_t begin,
                     std::int64_t end, float* planes) {
  const auto rows = fft_plan(sizes.width), columns = fft_plan(sizes.height);
  if (rows == nullptr || columns == nullptr) return false;
  const SfmaLevel& loops = loops_of(level);
  loops.synthesise(sizes, *rows, *columns, spectrum, begin, end, planes,
                   scratch(loops.fft_scratch(sizes)));
  return true;
}

void sfma_gate(KernelLevel level, const SfmaSizes& sizes, const float* packed, const float* spectrum,
               std::int64_t begin, std::int64_t end, float* gated) {
  const SfmaLevel& loops = loops_of(level);
  loops.gate(sizes, packed, spectrum, begin, end, gated, scratch(loops.gate_scratch(sizes)));
}

void sfma_up(KernelLevel level, const SfmaSizes& sizes, const float* packed, const ConstMap& x,
             const float* planes, std::int64_t begin, std::int64_t end, const Map& out) {
  const SfmaLevel& loops = loops_of(level);
  loops.up(sizes, packed, x, planes, begin, end, out, scratch(loops.up_scratch(sizes)));
}

}  // namespace icmh::kernels
