// How a plane is split: chunks that threads can code apart, and lanes within them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "rans/bits.h"
#include "rans/format.h"

namespace icmh::rans {

// Chunk i starts at symbol i * size; the last one may be shorter but is never empty.
struct ChunkPlan {
  std::size_t count;
  std::size_t size;

  static ChunkPlan of(std::size_t num_symbols, std::size_t count) {
    return {count, count == 0 ? 0 : (num_symbols - 1) / count + 1};
  }
  bool is_valid(std::size_t num_symbols) const {
    return count >= 1 && count <= num_symbols && (count - 1) * size < num_symbols;
  }
  std::size_t first_symbol(std::size_t chunk) const { return chunk * size; }
  std::size_t symbols_in(std::size_t chunk, std::size_t num_symbols) const {
    return chunk + 1 < count ? size : num_symbols - chunk * size;
  }
};

// The encoder's choice for a payload of about so many bytes, all in integers: docs/rans.md has it,
// so that equal input gives equal bytes on every machine.
struct Layout {
  std::size_t chunks;
  unsigned lanes;

  static Layout of(std::uint64_t payload_bytes, std::size_t num_symbols) {
    const std::uint64_t most = std::min<std::uint64_t>(payload_bytes / kPayloadBytesPerChunk,
                                                       num_symbols / kSymbolsPerChunk);
    const std::uint64_t chunks = most < 2 ? 1 : std::uint64_t{1} << (bit_length(most) - 1);
    return {static_cast<std::size_t>(chunks), lanes_for(payload_bytes / chunks)};
  }

  static unsigned lanes_for(std::uint64_t chunk_bytes) {
    unsigned lanes = kMaxLanes;
    while (lanes > 1 && lanes * kPayloadBytesPerLane > chunk_bytes) lanes /= 2;
    return lanes;
  }
};

}  // namespace icmh::rans
