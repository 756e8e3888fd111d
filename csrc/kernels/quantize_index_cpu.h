// Latents to symbols, and scales to indexes of a table's rows, in one pass. Every level gives the
// same bits: each value passes through single IEEE operations in one order.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace icmh::kernels {

// Rows of `length` values, one after the other: channels-last a row is a position and its values
// are channels, else it is a channel's plane.
struct QuantizeIndex {
  std::int64_t length;
  const float* latent;
  // Subtracted; null for none. Row r begins mean_stride * r further: 0 is one row for all.
  const float* mean;
  std::int64_t mean_stride;
  // Multiplied with, before that; null for none. Either one for each of the `length` values, or
  // (gain_period > 0) one for all of row r: gain[r % gain_period].
  const float* gain;
  std::int64_t gain_period;
  const float* scales;  // as the latent; null for none
  // Ascending, num_thresholds <= 255 of them.
  const float* thresholds;
  std::int64_t num_thresholds;
  // symbol = clamp(round_half_even(latent * gain - mean), -2^17, 2^17), 0 for NaN
  std::int32_t* symbols;
  // index = how many thresholds are below the scale; all of them for NaN. Not written without scales
  std::uint8_t* indexes;
};

// Rows [begin, end). Returns how many values, before rounding, were infinite or NaN, plus how many
// scales were NaN. -1 for an unsupported level or too many thresholds; nothing is written then.
std::int64_t quantize_index(const QuantizeIndex& maps, std::int64_t begin, std::int64_t end,
                            SimdLevel level = simd_level());

}  // namespace icmh::kernels
