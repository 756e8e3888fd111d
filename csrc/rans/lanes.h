// The inner loops of the coder: whole groups of interleaved lanes, once for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/simd.h"
#include "common/status.h"
#include "rans/bits.h"
#include "rans/format.h"
#include "rans/tables.h"

namespace icmh::rans {

constexpr unsigned kCacheLineBytes = 64;
constexpr std::ptrdiff_t kPrefetchBytes = 4096;

// Applies X(Index, Symbol) to every pair of types that the coder takes.
#define ICMH_RANS_FOR_EACH_TYPE(X)                                             \
  X(std::uint8_t, std::int8_t) X(std::uint8_t, std::int16_t)                   \
  X(std::uint8_t, std::int32_t) X(std::uint16_t, std::int8_t)                  \
  X(std::uint16_t, std::int16_t) X(std::uint16_t, std::int32_t)                \
  X(std::int32_t, std::int8_t) X(std::int32_t, std::int16_t)                   \
  X(std::int32_t, std::int32_t)

// Indexes are masked or clamped to the rows while they are used, and their maximum is kept: nothing
// can be read outside of the tables, and one comparison in the end tells whether an index was wrong.
// Negative indexes count as large ones.
inline std::uint32_t clamp_row(std::uint32_t index, std::uint32_t last_row) {
  return index < last_row ? index : last_row;
}

// Asks for the cache lines of a group that comes `ahead` bytes after (or before) this one. Loops that
// walk down, as the encoder's do, are not foreseen by the hardware.
template <typename T>
inline void prefetch_group(const T* group, unsigned lanes, std::ptrdiff_t ahead) {
#ifdef __GNUC__
  // As a number: the address may lie outside of the array, where a pointer must not point.
  const auto address = reinterpret_cast<std::uintptr_t>(group) + static_cast<std::uintptr_t>(ahead);
  for (unsigned byte = 0; byte < lanes * sizeof(T); byte += kCacheLineBytes) {
    __builtin_prefetch(reinterpret_cast<const void*>(address + byte));
  }
#endif
}

inline Status bad_index(std::uint32_t num_rows) {
  return Status::bad_argument("an index is outside the " + std::to_string(num_rows) +
                              " rows of the tables");
}

// One chunk while it is decoded. The states of the lanes are apart, in an array of kMaxLanes.
template <typename Index, typename Symbol>
struct DecodeRun {
  const Tables* tables;
  const Index* indexes;
  Symbol* symbols;
  std::uint32_t highest_index = 0;
  bool fits = true;                  // false once a value does not fit Symbol
  std::vector<std::size_t> escapes;  // positions, ascending

  // What a slot means: the frequency of its interval, its place in that, and the value.
  struct Found {
    std::uint32_t frequency;
    std::uint32_t place;
    std::int32_t value;
  };
  // The definition, by search in the row (the last one for too high a number): for the slots that
  // their bucket does not answer. Symbol
  // `position` is recorded if it is an escape; its value then means nothing.
  Found look_up(std::size_t position, std::uint32_t row, std::uint32_t slot);

  // Takes symbol `position` out of a state; what it returns is not renormalised.
  std::uint32_t pop(std::size_t position, std::uint32_t x);
};

// Decodes symbols [first, end) in groups of `lanes` while at least 2 * lanes bytes are left before
// `words_end`. Returns the first symbol that it has not decoded and moves *words.
template <typename Index, typename Symbol>
using DecodeGroups = std::size_t (*)(DecodeRun<Index, Symbol>* run, std::size_t first,
                                     std::size_t end, std::uint32_t* states,
                                     const std::uint8_t** words, const std::uint8_t* words_end);

// The fastest loop of a level for this many lanes.
template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_of(SimdLevel level, unsigned lanes);

// One chunk while it is encoded.
template <typename Index, typename Symbol>
struct EncodeRun {
  const Tables* tables;
  const Index* indexes;
  const Symbol* symbols;
  std::uint32_t highest_index = 0;
  std::vector<Escape> escapes;  // last symbol first

  struct Found {
    Reciprocal reciprocal;
    std::uint32_t start;
    std::uint32_t frequency;
  };
  // The definition, from the row: for the values that have no cell. An escape is recorded.
  Found look_up(std::size_t position, std::uint32_t row);

  // Codes symbol `position` into a state; a word that leaves the state goes before *words, where
  // there must be room for one.
  void push(std::size_t position, std::uint32_t* state, std::uint16_t** words);
};

// Encodes symbols [0, end), a multiple of `lanes`, from the last to the first. Words are stored
// before *words, which moves; there must be room for end + kWordSlack of them.
template <typename Index, typename Symbol>
using EncodeGroups = void (*)(EncodeRun<Index, Symbol>* run, std::size_t end,
                              std::uint32_t* states, std::uint16_t** words);
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_of(SimdLevel level, unsigned lanes);

// Vector loops store whole vectors, of which the upper words count.
constexpr std::size_t kWordSlack = 16;

// The loops of each level, null for a number of lanes that its vectors do not fit. Defined in
// lanes_<level>.cpp where the level exists.
template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_neon(unsigned lanes);
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_neon(unsigned lanes);
template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_avx2(unsigned lanes);
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_avx2(unsigned lanes);
template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_avx512(unsigned lanes);
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_avx512(unsigned lanes);

}  // namespace icmh::rans
