// The rANS coder: spans in, status out. The scalar code defines the format (docs/rans.md); vector
// code and threads reproduce it byte for byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/simd.h"
#include "common/span.h"
#include "common/status.h"
#include "rans/tables.h"

namespace icmh::rans {

// Symbol is int8, int16 or int32; Index is uint8, uint16 or int32.

// 0 lets the encoder choose from the estimated payload; any other choice decodes as well.
struct EncodeOptions {
  unsigned lanes = 0;      // 1, 2, 4, ... 64
  std::size_t chunks = 0;  // 1 to the number of symbols
  std::uint16_t seal = 0;  // carried in the first state of lane 0, at no cost in bytes
  unsigned threads = 0;    // at most this many for the chunks; 0: as many as the pool allows
  SimdLevel level = simd_level();
};

// Encodes symbols[i] with row indexes[i] of `tables`. If other threads write to the arrays
// meanwhile, the stream is undefined but no memory is touched that must not be.
template <typename Symbol, typename Index>
Status encode(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables,
              const EncodeOptions& options, std::vector<std::uint8_t>* out);

struct DecodeOptions {
  unsigned threads = 0;
  SimdLevel level = simd_level();
};

// Decodes indexes.size symbols into `symbols` (of that size), and the seal. Reads nothing outside
// `data`, takes time and memory bounded by indexes.size whatever the data; `symbols` is unspecified
// unless the result is ok.
template <typename Index, typename Symbol>
Status decode(Span<const std::uint8_t> data, Span<const Index> indexes, const Tables& tables,
              const DecodeOptions& options, Span<Symbol> symbols, std::uint16_t* seal);

// Decodes what the first bytes of a stream tell, down to none: known[i] becomes 1 where that is
// symbols[i], and 0 where it is not told; symbols[i] is then 0. Both are as many as the indexes. What
// is known is the stream's own if `data` is its beginning; there is no checksum to say so. As safe as
// `decode`; one thread. A chunk that cannot be an encoder's, or has a value that Symbol cannot hold,
// tells nothing, and neither do those behind it.
template <typename Index, typename Symbol>
Status decode_beginning(Span<const std::uint8_t> data, Span<const Index> indexes,
                        const Tables& tables, const DecodeOptions& options, Span<Symbol> symbols,
                        Span<std::uint8_t> known);

}  // namespace icmh::rans
