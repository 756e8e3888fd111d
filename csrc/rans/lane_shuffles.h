// For instruction sets without expand and compress: tables of lanes for every mask.
#pragma once

#include <cstdint>

namespace icmh::rans {

template <unsigned kWidth>
struct LaneShuffles {
  std::uint8_t lanes[1u << kWidth][kWidth];

  // Lane i of the mask takes element number (lanes of the mask below i).
  static constexpr LaneShuffles spread() {
    LaneShuffles result{};
    for (unsigned mask = 0; mask < 1u << kWidth; ++mask) {
      std::uint8_t rank = 0;
      for (unsigned lane = 0; lane < kWidth; ++lane) {
        result.lanes[mask][lane] = rank < kWidth ? rank : kWidth - 1;
        rank = static_cast<std::uint8_t>(rank + (mask >> lane & 1));
      }
    }
    return result;
  }

  // The lanes of the mask, in order, at the upper end.
  static constexpr LaneShuffles pack() {
    LaneShuffles result{};
    for (unsigned mask = 0; mask < 1u << kWidth; ++mask) {
      unsigned at = kWidth;
      for (unsigned lane = kWidth; lane-- != 0;) {
        if ((mask >> lane & 1) != 0) result.lanes[mask][--at] = static_cast<std::uint8_t>(lane);
      }
    }
    return result;
  }
};

}  // namespace icmh::rans
