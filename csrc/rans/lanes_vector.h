// The lane loops over vectors, written once for all instruction sets. Read me first: a file that
// includes this defines ICMH_TARGET (the functions' target attribute) before, and then instantiates
// the loops with a class V of static functions, each of them an ICMH_OP:
//
//   kWidth                       lanes of a vector of uint32
//   U, M                         the vector; a mask of lanes
//   load(p), store(p, u)         kWidth uint32 at p
//   load_indexes(p)              kWidth uint8, uint16 or int32, widened (signs do not matter)
//   load_symbols(p)              kWidth int8, int16 or int32, sign-extended
//   store_symbols(p, u)          the reverse; the low bits
//   splat(scalar)                every lane
//   add, sub, mul                modulo 2^32
//   bit_and, bit_or, min_u32
//   and_or(a, b, c)              (a & b) | c
//   Shift, shift(n), shl, shr    by the same number of bits in every lane
//   shr16, sra16                 by 16; the latter is filled with the sign
//   shr_lanes(u, n)              by a number of bits for each lane
//   log2_floor(u)                of 1 <= u < 2^24
//   mul_high(a, b)               the upper 32 bits of the products
//   at_least_s32, at_least_u32   mask of a >= b, signed and not
//   is_zero, below_2_16          mask
//   any(m), bits(m), count(m)    whether the mask has lanes; lane i as bit i; how many
//   select(m, a, b)              a where m, else b
//   add_where(m, a, b), sub_where(m, a, b), shl16_where(m, u), shr16_where(m, u)
//                                where m, else the first operand
//   gather(base, i, &lo, &hi)    halves of the 64-bit numbers base[i]
//   read_words(p, m)             the next 16-bit words, one for each lane of m, 0 for others; reads
//                                2 * kWidth bytes
//   write_words(end, u, m)       the low words of the lanes of m before `end`, in order; may write
//                                2 * kWidth bytes before `end`
//
// Everything is in an unnamed namespace: code for one instruction set can never be taken by the
// linker for another's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "rans/lanes.h"

// A small function that must be inlined, for its target and for its arguments to stay in registers.
#define ICMH_OP ICMH_TARGET __attribute__((always_inline)) static inline

namespace icmh::rans {
namespace {

// The lanes of `todo` by the definition, into arrays that hold the vectors.
template <typename V, typename Index, typename Symbol>
[[gnu::noinline]] void look_up_slots(DecodeRun<Index, Symbol>* run, std::size_t position,
                                     unsigned todo, const std::uint32_t* rows,
                                     const std::uint32_t* slots, std::uint32_t* frequency,
                                     std::uint32_t* place, std::uint32_t* value) {
  for (unsigned lane = 0; lane < V::kWidth; ++lane) {
    if ((todo >> lane & 1) == 0) continue;
    const auto found = run->look_up(position + lane, rows[lane], slots[lane]);
    frequency[lane] = found.frequency;
    place[lane] = found.place;
    value[lane] = static_cast<std::uint32_t>(found.value);
  }
}

template <typename V, typename Index, typename Symbol>
[[gnu::noinline]] void look_up_cells(EncodeRun<Index, Symbol>* run, std::size_t position,
                                     unsigned todo, const std::uint32_t* rows,
                                     std::uint32_t* reciprocal, std::uint32_t* start,
                                     std::uint32_t* frequency) {
  for (unsigned lane = V::kWidth; lane-- != 0;) {
    if ((todo >> lane & 1) == 0) continue;
    const auto found = run->look_up(position + lane, rows[lane]);
    reciprocal[lane] = found.reciprocal.packed;
    start[lane] = found.start;
    frequency[lane] = found.frequency;
  }
}

// The highest index of every lane of a group, in elements of their own type: one wide operation for
// many lanes.
template <typename Index, unsigned kLanes>
struct HighestIndexes {
  using Unsigned = std::make_unsigned_t<Index>;
  alignas(64) Unsigned highest[kLanes] = {};

  ICMH_OP void see(HighestIndexes* self, const Index* indexes) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      const auto index = static_cast<Unsigned>(indexes[lane]);
      self->highest[lane] = index > self->highest[lane] ? index : self->highest[lane];
    }
  }
  ICMH_OP void report(const HighestIndexes* self, std::uint32_t* highest_index) {
    for (const Unsigned index : self->highest) {
      if (index > *highest_index) *highest_index = index;
    }
  }
};

// What the steps of a decoding loop share. Like all classes here it lives in registers: its functions
// are always inlined.
template <typename V, typename Index, typename Symbol>
struct DecodeVectors {
  using U = typename V::U;
  using M = typename V::M;
  static constexpr unsigned kWidth = V::kWidth;

  DecodeRun<Index, Symbol>* run;
  const DecoderBucket* buckets;
  U row_bits, slot_mask, low_half, one;
  typename V::Shift precision, bucket_bits, bucket_shift;
  U too_wide;
  const std::uint8_t* next;

  ICMH_OP void start(DecodeVectors* self, DecodeRun<Index, Symbol>* of,
                     const std::uint8_t* words) {
    const Tables& tables = *of->tables;
    self->run = of;
    self->buckets = tables.buckets();
    self->row_bits = V::splat(tables.row_mask() << tables.bucket_bits());
    self->slot_mask = V::splat((1u << tables.precision()) - 1);
    self->low_half = V::splat(0xFFFF);
    self->one = V::splat(1);
    self->precision = V::shift(tables.precision());
    self->bucket_bits = V::shift(tables.bucket_bits());
    self->bucket_shift = V::shift(tables.bucket_shift());
    self->too_wide = V::splat(0);
    self->next = words;
  }

  // One symbol from each lane of a vector.
  ICMH_OP void step(DecodeVectors* self, std::size_t position, U* x) {
    const U index = V::load_indexes(self->run->indexes + position);
    const U slot = V::bit_and(*x, self->slot_mask);
    U start_first, second_value;
    V::gather(self->buckets,
              V::and_or(V::shl(index, self->bucket_bits), self->row_bits,
                        V::shr(slot, self->bucket_shift)),
              &start_first, &second_value);
    // Before the first interval the place is negative, or huge: outside of both.
    const U place_in_first = V::sub(slot, V::bit_and(start_first, self->low_half));
    const U first_frequency = V::shr16(start_first);
    const M second = V::at_least_s32(place_in_first, first_frequency);
    U place = V::sub_where(second, place_in_first, first_frequency);
    U frequency = V::select(second, V::bit_and(second_value, self->low_half), first_frequency);
    U value = V::add_where(second, V::sra16(second_value), self->one);
    const M outside = V::at_least_u32(place, frequency);
    if (__builtin_expect(V::any(outside), 0)) {
      alignas(64) std::uint32_t rows[kWidth], slots[kWidth];
      alignas(64) std::uint32_t frequencies[kWidth], places[kWidth], values[kWidth];
      V::store(rows, index);
      V::store(slots, slot);
      V::store(frequencies, frequency);
      V::store(places, place);
      V::store(values, value);
      look_up_slots<V>(self->run, position, V::bits(outside), rows, slots, frequencies, places,
                       values);
      frequency = V::load(frequencies);
      place = V::load(places);
      value = V::load(values);
    }
    // look_up() reports a value that it finds too wide, so here only what buckets hold counts.
    if (sizeof(Symbol) == 1) {
      const U excess = V::bit_and(V::add(value, V::splat(128)), V::splat(~255u));
      self->too_wide =
          V::bit_or(self->too_wide, V::select(outside, V::splat(0), excess));
    }
    V::store_symbols(self->run->symbols + position, value);

    const U popped = V::add(V::mul(frequency, V::shr(*x, self->precision)), place);
    const M low = V::below_2_16(popped);
    *x = V::bit_or(V::shl16_where(low, popped), V::read_words(self->next, low));
    self->next += 2 * V::count(low);
  }

  template <unsigned kVectors>
  ICMH_OP void steps(DecodeVectors* self, std::size_t position, U* x) {
    step(self, position, x);
    if constexpr (kVectors > 1) steps<kVectors - 1>(self, position + kWidth, x + 1);
  }
};

template <typename V, typename Index, typename Symbol, unsigned kVectors>
ICMH_TARGET std::size_t decode_vectors(DecodeRun<Index, Symbol>* run, std::size_t first,
                                       std::size_t end, std::uint32_t* states,
                                       const std::uint8_t** words,
                                       const std::uint8_t* words_end) {
  using Vectors = DecodeVectors<V, Index, Symbol>;
  constexpr unsigned kWidth = V::kWidth;
  constexpr unsigned kLanes = kVectors * kWidth;
  using Highest = HighestIndexes<Index, kLanes>;
  Highest highest;
  Vectors vectors;
  Vectors::start(&vectors, run, *words);
  typename V::U x[kVectors];
  for (unsigned v = 0; v < kVectors; ++v) x[v] = V::load(states + v * kWidth);
  std::size_t i = first;
  for (; i + kLanes <= end &&
         words_end - vectors.next >= static_cast<std::ptrdiff_t>(2 * kLanes);
       i += kLanes) {
    prefetch_group(run->symbols + i, kLanes, kPrefetchBytes);
    prefetch_group(run->indexes + i, kLanes, kPrefetchBytes);
    Highest::see(&highest, run->indexes + i);
    Vectors::template steps<kVectors>(&vectors, i, x);
  }
  for (unsigned v = 0; v < kVectors; ++v) V::store(states + v * kWidth, x[v]);
  Highest::report(&highest, &run->highest_index);
  alignas(64) std::uint32_t lanes[kWidth];
  V::store(lanes, vectors.too_wide);
  for (const std::uint32_t wrong : lanes) {
    if (wrong != 0) run->fits = false;
  }
  *words = vectors.next;
  return i;
}

template <typename V, typename Index, typename Symbol>
struct EncodeVectors {
  using U = typename V::U;
  using M = typename V::M;
  static constexpr unsigned kWidth = V::kWidth;
  static_assert(kWidth <= kWordSlack, "write_words stays within the slack");

  EncodeRun<Index, Symbol>* run;
  const EncoderCell* cells;
  U row_bits, last_cell, lowest_value, low_half, add_bit, num_slots;
  typename V::Shift cell_bits, limit_shift, add_shift;
  std::uint16_t* next;

  ICMH_OP void start(EncodeVectors* self, EncodeRun<Index, Symbol>* of, std::uint16_t* words) {
    const Tables& tables = *of->tables;
    self->run = of;
    self->cells = tables.cells();
    self->row_bits = V::splat(tables.row_mask() << tables.cell_bits());
    self->last_cell = V::splat((1u << tables.cell_bits()) - 1);
    self->lowest_value = V::splat(static_cast<std::uint32_t>(tables.lowest_cell_value()));
    self->low_half = V::splat(0xFFFF);
    self->add_bit = V::splat(Reciprocal::kAdd);
    self->num_slots = V::splat(1u << tables.precision());
    self->cell_bits = V::shift(tables.cell_bits());
    self->limit_shift = V::shift(32 - tables.precision());
    self->add_shift = V::shift(31);
    self->next = words;
  }

  // One symbol into each lane of a vector.
  ICMH_OP void step(EncodeVectors* self, std::size_t position, U* x) {
    const U index = V::load_indexes(self->run->indexes + position);
    const U above_lowest =
        V::sub(V::load_symbols(self->run->symbols + position), self->lowest_value);
    U packed, start_frequency;
    V::gather(self->cells,
              V::and_or(V::shl(index, self->cell_bits), self->row_bits,
                        V::min_u32(above_lowest, self->last_cell)),
              &packed, &start_frequency);
    U start = V::bit_and(start_frequency, self->low_half);
    U frequency = V::shr16(start_frequency);
    const M unknown = V::is_zero(frequency);
    if (__builtin_expect(V::any(unknown), 0)) {
      alignas(64) std::uint32_t rows[kWidth], reciprocals[kWidth];
      alignas(64) std::uint32_t starts[kWidth], frequencies[kWidth];
      V::store(rows, index);
      V::store(reciprocals, packed);
      V::store(starts, start);
      V::store(frequencies, frequency);
      look_up_cells<V>(self->run, position, V::bits(unknown), rows, reciprocals, starts,
                       frequencies);
      packed = V::load(reciprocals);
      start = V::load(starts);
      frequency = V::load(frequencies);
    }

    const M full = V::at_least_s32(V::shr(*x, self->limit_shift), frequency);
    V::write_words(self->next, *x, full);
    self->next -= V::count(full);
    const U renormalized = V::shr16_where(full, *x);
    const U high = V::mul_high(V::add(renormalized, V::shr(packed, self->add_shift)),
                               V::bit_or(packed, self->add_bit));
    const U quotient = V::shr_lanes(high, V::log2_floor(frequency));
    *x = V::add(V::add(renormalized, start),
                V::mul(quotient, V::sub(self->num_slots, frequency)));
  }

  // From the last vector to the first.
  template <unsigned kVectors>
  ICMH_OP void steps(EncodeVectors* self, std::size_t position, U* x) {
    step(self, position + (kVectors - 1) * kWidth, x + (kVectors - 1));
    if constexpr (kVectors > 1) steps<kVectors - 1>(self, position, x);
  }
};

template <typename V, typename Index, typename Symbol, unsigned kVectors>
ICMH_TARGET void encode_vectors(EncodeRun<Index, Symbol>* run, std::size_t end,
                                std::uint32_t* states, std::uint16_t** words) {
  using Vectors = EncodeVectors<V, Index, Symbol>;
  constexpr unsigned kWidth = V::kWidth;
  constexpr unsigned kLanes = kVectors * kWidth;
  using Highest = HighestIndexes<Index, kLanes>;
  Highest highest;
  Vectors vectors;
  Vectors::start(&vectors, run, *words);
  typename V::U x[kVectors];
  for (unsigned v = 0; v < kVectors; ++v) x[v] = V::load(states + v * kWidth);
  for (std::size_t i = end; i != 0;) {
    i -= kLanes;
    prefetch_group(run->symbols + i, kLanes, -kPrefetchBytes);
    prefetch_group(run->indexes + i, kLanes, -kPrefetchBytes);
    Highest::see(&highest, run->indexes + i);
    Vectors::template steps<kVectors>(&vectors, i, x);
  }
  for (unsigned v = 0; v < kVectors; ++v) V::store(states + v * kWidth, x[v]);
  Highest::report(&highest, &run->highest_index);
  *words = vectors.next;
}

// The loop for a number of lanes, null if they do not fill vectors.
template <typename V, typename Index, typename Symbol, unsigned kVectors = 1>
DecodeGroups<Index, Symbol> decode_vectors_of(unsigned lanes) {
  if (lanes == kVectors * V::kWidth) return &decode_vectors<V, Index, Symbol, kVectors>;
  if constexpr (2 * kVectors * V::kWidth <= kMaxLanes) {
    return decode_vectors_of<V, Index, Symbol, 2 * kVectors>(lanes);
  } else {
    return nullptr;
  }
}

template <typename V, typename Index, typename Symbol, unsigned kVectors = 1>
EncodeGroups<Index, Symbol> encode_vectors_of(unsigned lanes) {
  if (lanes == kVectors * V::kWidth) return &encode_vectors<V, Index, Symbol, kVectors>;
  if constexpr (2 * kVectors * V::kWidth <= kMaxLanes) {
    return encode_vectors_of<V, Index, Symbol, 2 * kVectors>(lanes);
  } else {
    return nullptr;
  }
}

}  // namespace
}  // namespace icmh::rans
