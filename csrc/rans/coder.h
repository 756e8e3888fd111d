// The rANS coder: spans in, status out. The scalar code here defines the format (docs/rans.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "common/status.h"
#include "rans/tables.h"

namespace icmh::rans {

// 0 lets the encoder choose from the estimated payload; any other choice decodes as well.
struct EncodeOptions {
  unsigned lanes = 0;      // 1, 2, 4, 8, 16 or 32
  std::size_t chunks = 0;  // 1 to the number of symbols
  std::uint16_t seal = 0;  // carried in the first state of lane 0, at no cost in bytes
};

// Encodes symbols[i] with row indexes[i] of `tables`. Index is uint8, uint16 or int32.
template <typename Index>
Status encode(Span<const std::int32_t> symbols, Span<const Index> indexes, const Tables& tables,
              const EncodeOptions& options, std::vector<std::uint8_t>* out);

// Decodes indexes.size symbols into `symbols` (of that size), and the seal. Reads nothing outside `data`, takes
// time and memory bounded by indexes.size whatever the data; on kCorrupt `symbols` is unspecified.
template <typename Index>
Status decode(Span<const std::uint8_t> data, Span<const Index> indexes, const Tables& tables,
              Span<std::int32_t> symbols, std::uint16_t* seal);

// How the symbols of a plane are split: chunk i starts at symbol i * size, the last one may be
// shorter but never empty.
struct ChunkPlan {
  std::size_t count;
  std::size_t size;

  static ChunkPlan of(std::size_t num_symbols, std::size_t count) {
    return {count, (num_symbols + count - 1) / count};
  }
  bool is_valid(std::size_t num_symbols) const {
    return count >= 1 && count <= num_symbols && (count - 1) * size < num_symbols;
  }
  std::size_t symbols_in(std::size_t chunk, std::size_t num_symbols) const {
    return chunk + 1 < count ? size : num_symbols - chunk * size;
  }
};

template <typename Index>
Status check_indexes(Span<const Index> indexes, std::size_t num_rows) {
  // Without an early exit the loop vectorises; one unsigned comparison also refuses negatives.
  bool inside = true;
  for (const Index index : indexes) {
    inside &= static_cast<std::uint32_t>(index) < num_rows;
  }
  if (inside) return Status::ok();
  return Status::bad_argument("an index is outside the " + std::to_string(num_rows) +
                              " rows of the tables");
}

}  // namespace icmh::rans
