// The lane loops in portable C++, and the choice among all of them.
#include "rans/lanes.h"

#include <type_traits>

namespace icmh::rans {

template <typename Index, typename Symbol>
typename DecodeRun<Index, Symbol>::Found DecodeRun<Index, Symbol>::look_up(
    std::size_t position, std::uint32_t row_number, std::uint32_t slot) {
  const Row& row = tables->row(clamp_row(row_number, tables->num_rows() - 1));
  const std::uint32_t number = tables->interval_of_slot(row, slot);
  const Interval& interval = tables->interval(row, number);
  const std::int32_t value = row.value_of(number);
  if (number == row.count) {
    escapes.push_back(position);
  } else if (value != static_cast<Symbol>(value)) {
    fits = false;
  }
  return {interval.frequency_minus_1 + 1u, slot - interval.start, value};
}

template <typename Index, typename Symbol>
typename EncodeRun<Index, Symbol>::Found EncodeRun<Index, Symbol>::look_up(
    std::size_t position, std::uint32_t row_number) {
  const Row& row = tables->row(clamp_row(row_number, tables->num_rows() - 1));
  const std::int32_t symbol = symbols[position];
  const std::uint32_t number = row.interval_of(symbol);
  if (number == row.count) escapes.push_back(Escape::of(symbol, row.offset, row.count));
  const Interval& interval = tables->interval(row, number);
  const std::uint32_t frequency = interval.frequency_minus_1 + 1u;
  return {Reciprocal::of(frequency, tables->precision()), interval.start, frequency};
}

namespace {

// Left to itself, GCC calls these for every symbol, and what they keep in registers goes to memory.
#if defined(__GNUC__)
#define ICMH_IN_LOOP __attribute__((always_inline)) inline
#else
#define ICMH_IN_LOOP inline
#endif

// What a loop needs of the tables and the run, in local variables: the compiler cannot know that
// writing symbols leaves them alone.
template <typename Index, typename Symbol>
class Popper {
 public:
  explicit Popper(DecodeRun<Index, Symbol>* run)
      : run_(run),
        indexes_(run->indexes),
        symbols_(run->symbols),
        buckets_(run->tables->buckets()),
        row_mask_(run->tables->row_mask()),
        precision_(run->tables->precision()),
        bucket_bits_(run->tables->bucket_bits()),
        bucket_shift_(run->tables->bucket_shift()),
        highest_index_(run->highest_index) {}
  ~Popper() { run_->highest_index = highest_index_; }

  ICMH_IN_LOOP std::uint32_t pop(std::size_t position, std::uint32_t x) {
    const auto index = static_cast<std::uint32_t>(indexes_[position]);
    highest_index_ = index > highest_index_ ? index : highest_index_;
    const std::uint32_t row = index & row_mask_;
    const std::uint32_t slot = x & ((1u << precision_) - 1);
    const DecoderBucket& bucket =
        buckets_[(std::size_t{row} << bucket_bits_) + (slot >> bucket_shift_)];
    const std::uint32_t place = slot - bucket.start;  // huge for a slot before the bucket's start
    const bool second = place >= bucket.first_frequency;
    typename DecodeRun<Index, Symbol>::Found found{
        second ? bucket.second_frequency : bucket.first_frequency,
        second ? place - bucket.first_frequency : place, bucket.value + second};
    if (__builtin_expect(found.place >= found.frequency, 0)) {
      found = run_->look_up(position, row, slot);
    } else if (sizeof(Symbol) == 1 && found.value != static_cast<Symbol>(found.value)) {
      run_->fits = false;
    }
    symbols_[position] = static_cast<Symbol>(found.value);
    return found.frequency * (x >> precision_) + found.place;
  }

 private:
  DecodeRun<Index, Symbol>* const run_;
  const Index* const indexes_;
  Symbol* const symbols_;
  const DecoderBucket* const buckets_;
  const std::uint32_t row_mask_;
  const unsigned precision_;
  const unsigned bucket_bits_;
  const unsigned bucket_shift_;
  std::uint32_t highest_index_;
};

template <typename Index, typename Symbol>
class Pusher {
 public:
  explicit Pusher(EncodeRun<Index, Symbol>* run)
      : run_(run),
        indexes_(run->indexes),
        symbols_(run->symbols),
        cells_(run->tables->cells()),
        row_mask_(run->tables->row_mask()),
        last_cell_((1u << run->tables->cell_bits()) - 1),
        lowest_value_(static_cast<std::uint32_t>(run->tables->lowest_cell_value())),
        precision_(run->tables->precision()),
        cell_bits_(run->tables->cell_bits()),
        highest_index_(run->highest_index) {}
  ~Pusher() { run_->highest_index = highest_index_; }

  ICMH_IN_LOOP std::uint32_t push(std::size_t position, std::uint32_t x, std::uint16_t** words) {
    const auto index = static_cast<std::uint32_t>(indexes_[position]);
    highest_index_ = index > highest_index_ ? index : highest_index_;
    const std::uint32_t row = index & row_mask_;
    const std::uint32_t above = static_cast<std::uint32_t>(symbols_[position]) - lowest_value_;
    const EncoderCell& cell =
        cells_[(std::size_t{row} << cell_bits_) + (above < last_cell_ ? above : last_cell_)];
    typename EncodeRun<Index, Symbol>::Found found{cell.reciprocal, cell.start, cell.frequency};
    if (__builtin_expect(found.frequency == 0, 0)) found = run_->look_up(position, row);
    const bool full = (x >> (32 - precision_)) >= found.frequency;
    (*words)[-1] = static_cast<std::uint16_t>(x);
    *words -= full ? 1 : 0;
    x = full ? x >> kWordBits : x;
    // quotient * 2^P + start + remainder, where the remainder is x - quotient * frequency. A
    // frequency of 2^P makes the quotient meaningless, and 0 of it.
    const std::uint32_t quotient = found.reciprocal.quotient(x, found.frequency);
    return x + found.start + quotient * ((1u << precision_) - found.frequency);
  }

 private:
  EncodeRun<Index, Symbol>* const run_;
  const Index* const indexes_;
  const Symbol* const symbols_;
  const EncoderCell* const cells_;
  const std::uint32_t row_mask_;
  const std::uint32_t last_cell_;
  const std::uint32_t lowest_value_;
  const unsigned precision_;
  const unsigned cell_bits_;
  std::uint32_t highest_index_;
};

template <typename Index, typename Symbol, unsigned kLanes>
std::size_t decode_groups_scalar(DecodeRun<Index, Symbol>* run, std::size_t first,
                                 std::size_t end, std::uint32_t* states,
                                 const std::uint8_t** words, const std::uint8_t* words_end) {
  Popper<Index, Symbol> popper(run);
  std::uint32_t x[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane) x[lane] = states[lane];
  const std::uint8_t* next = *words;
  std::size_t i = first;
  for (; i + kLanes <= end && words_end - next >= static_cast<std::ptrdiff_t>(2 * kLanes);
       i += kLanes) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      const std::uint32_t popped = popper.pop(i + lane, x[lane]);
      const std::uint32_t refilled = popped << kWordBits | load_u16(next);
      const bool low = popped < kStateLow;
      next += low ? 2 : 0;
      x[lane] = low ? refilled : popped;
    }
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) states[lane] = x[lane];
  *words = next;
  return i;
}

template <typename Index, typename Symbol, unsigned kLanes>
void encode_groups_scalar(EncodeRun<Index, Symbol>* run, std::size_t end, std::uint32_t* states,
                          std::uint16_t** words) {
  Pusher<Index, Symbol> pusher(run);
  std::uint32_t x[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane) x[lane] = states[lane];
  std::uint16_t* next = *words;
  for (std::size_t i = end; i != 0;) {
    i -= kLanes;
    for (unsigned lane = kLanes; lane-- != 0;) x[lane] = pusher.push(i + lane, x[lane], &next);
  }
  for (unsigned lane = 0; lane < kLanes; ++lane) states[lane] = x[lane];
  *words = next;
}

// f(integral_constant) for the number of lanes, which a loop must know to be unrolled.
template <typename Function>
auto with_lanes(unsigned lanes, const Function& function) {
  switch (lanes) {
    case 1:
      return function(std::integral_constant<unsigned, 1>());
    case 2:
      return function(std::integral_constant<unsigned, 2>());
    case 4:
      return function(std::integral_constant<unsigned, 4>());
    case 8:
      return function(std::integral_constant<unsigned, 8>());
    case 16:
      return function(std::integral_constant<unsigned, 16>());
    case 32:
      return function(std::integral_constant<unsigned, 32>());
    default:
      return function(std::integral_constant<unsigned, 64>());
  }
}

}  // namespace

template <typename Index, typename Symbol>
std::uint32_t DecodeRun<Index, Symbol>::pop(std::size_t position, std::uint32_t x) {
  return Popper<Index, Symbol>(this).pop(position, x);
}

template <typename Index, typename Symbol>
void EncodeRun<Index, Symbol>::push(std::size_t position, std::uint32_t* state,
                                    std::uint16_t** words) {
  *state = Pusher<Index, Symbol>(this).push(position, *state, words);
}

template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_of(SimdLevel level, unsigned lanes) {
  DecodeGroups<Index, Symbol> groups = nullptr;
#ifdef ICMH_SIMD_X86
  if (level == SimdLevel::avx512) groups = decode_groups_avx512<Index, Symbol>(lanes);
  // Every CPU of the avx512 level has avx2, whose vectors fit 8 lanes.
  if (groups == nullptr && (level == SimdLevel::avx512 || level == SimdLevel::avx2)) {
    groups = decode_groups_avx2<Index, Symbol>(lanes);
  }
#endif
#ifdef ICMH_SIMD_NEON
  if (level == SimdLevel::neon) groups = decode_groups_neon<Index, Symbol>(lanes);
#endif
  (void)level;
  if (groups != nullptr) return groups;
  return with_lanes(lanes, [](auto count) -> DecodeGroups<Index, Symbol> {
    return &decode_groups_scalar<Index, Symbol, decltype(count)::value>;
  });
}

template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_of(SimdLevel level, unsigned lanes) {
  EncodeGroups<Index, Symbol> groups = nullptr;
#ifdef ICMH_SIMD_X86
  if (level == SimdLevel::avx512) groups = encode_groups_avx512<Index, Symbol>(lanes);
  if (groups == nullptr && (level == SimdLevel::avx512 || level == SimdLevel::avx2)) {
    groups = encode_groups_avx2<Index, Symbol>(lanes);
  }
#endif
#ifdef ICMH_SIMD_NEON
  if (level == SimdLevel::neon) groups = encode_groups_neon<Index, Symbol>(lanes);
#endif
  (void)level;
  if (groups != nullptr) return groups;
  return with_lanes(lanes, [](auto count) -> EncodeGroups<Index, Symbol> {
    return &encode_groups_scalar<Index, Symbol, decltype(count)::value>;
  });
}

#define ICMH_INSTANTIATE(Index, Symbol)                                                      \
  template struct DecodeRun<Index, Symbol>;                                                  \
  template struct EncodeRun<Index, Symbol>;                                                  \
  template DecodeGroups<Index, Symbol> decode_groups_of<Index, Symbol>(SimdLevel, unsigned); \
  template EncodeGroups<Index, Symbol> encode_groups_of<Index, Symbol>(SimdLevel, unsigned);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)
#undef ICMH_INSTANTIATE

}  // namespace icmh::rans
