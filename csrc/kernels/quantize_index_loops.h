// The loops of quantize_index_cpu.cpp, included once for each instruction set inside a namespace of
// its own, with ICMH_TARGET (the functions' target attribute) defined. They are plain: a compiler
// makes vectors of them, and calls no function of the library, which could be compiled for another
// instruction set. No include guard: several inclusions are the point.

// Symbols of `count` values; the result is how many were not finite.
template <bool kGain, bool kGainOfRow, bool kMean>
ICMH_TARGET std::int64_t quantize_row(const float* latent, const float* gain, const float* mean,
                                      std::int64_t count, std::int32_t* symbols) {
  const float row_gain = kGainOfRow ? gain[0] : 0.0f;
  std::int32_t bad = 0;  // counts are 32 bits wide so that they fit the vectors: callers cut rows
  for (std::int64_t i = 0; i < count; ++i) {
    float value = latent[i];
    if (kGain) value *= kGainOfRow ? row_gain : gain[i];
    if (kMean) value -= mean[i];
    // Infinities and NaN are told, and limits set, by the bits: comparisons of floats may trap, so
    // compilers leave them out of vectors.
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t magnitude = bits & ~kSign;
    bad += magnitude >= kInfinity ? 1 : 0;
    const std::uint32_t large = magnitude >= kSymbolLimit ? ~0u : 0u;
    const std::uint32_t is_number = magnitude <= kInfinity ? ~0u : 0u;
    bits = ((bits & (~large | kSign)) | (large & kSymbolLimit)) & is_number;
    std::memcpy(&value, &bits, sizeof bits);
    // Far below 2^22 in magnitude, so the sum's last place is one: it rounds half to even.
    symbols[i] = static_cast<std::int32_t>((value + kRounder) - kRounder);
  }
  return bad;
}

// Indexes of kIndexBlock scales by bisection: in a table of 2^steps - 1 thresholds, filled up with
// infinity, below which no scale lies.
ICMH_TARGET inline std::int32_t index_block(const float* scales, const float* table,
                                            std::int32_t steps, std::int32_t thresholds,
                                            std::uint8_t* indexes) {
  std::int32_t below[kIndexBlock];
  for (std::int32_t i = 0; i < kIndexBlock; ++i) below[i] = 0;
  for (std::int32_t half = 1 << steps >> 1; half != 0; half >>= 1) {
    const float* const last_of_half = table + half - 1;
    for (std::int32_t i = 0; i < kIndexBlock; ++i) {
      below[i] += last_of_half[below[i]] < scales[i] ? half : 0;
    }
  }
  std::int32_t bad = 0;
  for (std::int32_t i = 0; i < kIndexBlock; ++i) {
    const bool is_number = scales[i] == scales[i];
    bad += is_number ? 0 : 1;
    indexes[i] = static_cast<std::uint8_t>(is_number ? below[i] : thresholds);
  }
  return bad;
}

// Indexes of `count` scales; the result is how many were NaN.
ICMH_TARGET inline std::int64_t index_row(const float* scales, std::int64_t count,
                                          const float* table, std::int32_t steps,
                                          std::int32_t thresholds, std::uint8_t* indexes) {
  std::int32_t bad = 0;
  std::int64_t first = 0;
  for (; first + kIndexBlock <= count; first += kIndexBlock) {
    bad += index_block(scales + first, table, steps, thresholds, indexes + first);
  }
  if (first == count) return bad;
  float last_scales[kIndexBlock];
  std::uint8_t last_indexes[kIndexBlock];
  const std::int64_t left = count - first;
  for (std::int64_t i = 0; i < kIndexBlock; ++i) {
    last_scales[i] = i < left ? scales[first + i] : 0.0f;
  }
  bad += index_block(last_scales, table, steps, thresholds, last_indexes);
  for (std::int64_t i = 0; i < left; ++i) indexes[first + i] = last_indexes[i];
  return bad;
}

ICMH_TARGET inline QuantizeRow quantize_row_of(bool gain, bool gain_of_row, bool mean) {
  if (!gain) return mean ? quantize_row<false, false, true> : quantize_row<false, false, false>;
  if (gain_of_row) return mean ? quantize_row<true, true, true> : quantize_row<true, true, false>;
  return mean ? quantize_row<true, false, true> : quantize_row<true, false, false>;
}
