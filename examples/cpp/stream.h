// From symbols to an ICMH stream (docs/bitstream.md), with csrc/rans and nothing else.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle.h"

namespace example {

// What an engine of the role "encoder" gives for one image, each in C order.
struct Symbols {
  std::vector<std::int32_t> z;        // (hz, wz, Z)
  std::vector<std::int32_t> y;        // (h, w, M)
  std::vector<std::uint8_t> indexes;  // (h, w, M)
};

// The stream of an image of task "human". Throws std::runtime_error.
std::vector<std::uint8_t> write_stream(const Symbols& symbols, const Coding& coding,
                                       std::uint32_t height, std::uint32_t width);

}  // namespace example
