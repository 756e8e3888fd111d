// Exact division of a state by a frequency without a division. Proof: docs/rans.md.
#pragma once

#include <cstdint>

#include "rans/bits.h"

namespace icmh::rans {

// floor(x / frequency) for every x < frequency * 2^(32 - precision), as
//     floor((x + add) * multiplier / 2^(32 + shift)),
// where shift depends on the frequency alone and 2^31 <= multiplier < 2^32: the multiplier's highest
// bit is always set, so that place stores `add`. A frequency of 2^precision is not divided by.
struct Reciprocal {
  std::uint32_t packed;

  static Reciprocal of(std::uint32_t frequency, unsigned precision) {
    const unsigned shift = shift_of(frequency);
    const std::uint64_t one = std::uint64_t{1} << (32 + shift);
    const std::uint64_t above = (one + frequency - 1) / frequency;
    const bool is_exact_above =
        (above * frequency - one) * frequency <= std::uint64_t{1} << (precision + shift);
    if (above >> 32 == 0 && is_exact_above) return {static_cast<std::uint32_t>(above) & ~kAdd};
    // 2^32 - 1 for a power of two, otherwise the quotient rounded down.
    return {static_cast<std::uint32_t>((one - 1) / frequency) | kAdd};
  }

  // floor(log2(frequency)).
  static unsigned shift_of(std::uint32_t frequency) { return bit_length(frequency) - 1; }

  std::uint32_t quotient(std::uint32_t x, std::uint32_t frequency) const {
    const std::uint64_t multiplier = packed | kAdd;
    const std::uint32_t add = packed >> 31;
    return static_cast<std::uint32_t>(multiplier * (x + add) >> 32) >> shift_of(frequency);
  }

  static constexpr std::uint32_t kAdd = 1u << 31;
};

}  // namespace icmh::rans
