#include "rans/compat.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "rans/bits.h"

namespace icmh::rans::compat {
namespace {

constexpr std::uint32_t kTotal = 1u << kPrecision;
// States live in [kStateLow, 2^63) and move 32-bit words.
constexpr std::uint64_t kStateLow = std::uint64_t{1} << 31;
constexpr std::uint64_t kStateEnd = std::uint64_t{1} << 63;
constexpr unsigned kWordBits = 32;
constexpr std::size_t kWordBytes = 4;
constexpr std::size_t kStateBytes = 8;

// After the escape interval: how many nibbles `raw` has, then these. The format lets the number of
// nibbles be 15 and more (a nibble 15 is followed by another one to be added), but `raw` is below
// 2^31 wherever CompressAI's decoder is defined, so no stream goes on after 8.
constexpr unsigned kNibbleBits = 4;
constexpr std::uint32_t kNibbleMask = 15;
constexpr unsigned kMaxNibbles = 8;
constexpr std::uint64_t kRawEnd = std::uint64_t{1} << 31;

// 2^6 to 2^11 buckets a row, 4 to 8 for each of its intervals. With fewer, more slots lie in
// another interval than their bucket's first, which costs a mispredicted branch; with more, the
// buckets of CompressAI's 64 Gaussian rows leave the cache. Within a factor of 2 no speed changes
// much.
constexpr unsigned kBucketBitsPerCount = 2;
constexpr unsigned kMinBucketBits = 6;
constexpr unsigned kMaxBucketBits = 11;
constexpr std::size_t kMaxBuckets = std::size_t{1} << 22;
// Without buckets a symbol takes two to three times as long; filling one takes a third of a symbol.
constexpr std::size_t kBucketsPerSymbol = 2;

constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

inline std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
#if defined(__SIZEOF_INT128__)
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((static_cast<Wide>(a) * b) >> 64);
#else
  const std::uint64_t a_low = a & 0xFFFFFFFF, a_high = a >> 32;
  const std::uint64_t b_low = b & 0xFFFFFFFF, b_high = b >> 32;
  const std::uint64_t middle = a_high * b_low + (a_low * b_low >> 32);
  const std::uint64_t other = a_low * b_high + (middle & 0xFFFFFFFF);
  return a_high * b_high + (middle >> 32) + (other >> 32);
#endif
}

inline std::uint32_t load_word(const std::uint8_t* p) {
  return static_cast<std::uint32_t>(p[0]) | static_cast<std::uint32_t>(p[1]) << 8 |
         static_cast<std::uint32_t>(p[2]) << 16 | static_cast<std::uint32_t>(p[3]) << 24;
}

inline void append_word(std::vector<std::uint8_t>* out, std::uint32_t value) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    out->push_back(static_cast<std::uint8_t>(value >> shift));
  }
}

// Division by multiplication. For 2 <= f <= 2^16 let s = ceil(log2 f), so 2^(s-1) < f <= 2^s and
// 1 <= s <= 16, and r = ceil(2^(63+s) / f), e = r*f - 2^(63+s), so 0 <= e < f. Then
//     floor(x*r / 2^(63+s)) = floor(x / f)  for all x < 2^63,
// because x*r / 2^(63+s) = x/f + x*e / (f * 2^(63+s)), and the last term is below 1/f: x*e < 2^63 *
// 2^s. Adding less than 1/f to x/f does not reach the next integer. r fits 64 bits:
// 2^(63+s) / f <= 2^(63+s) / (2^(s-1) + 1) = 2^64 * (1 - 1 / (2^(s-1) + 1)) <= 2^64 - 2^48, as
// s - 1 <= 15 and 2^15 + 1 <= 2^16. So the quotient is the high word of x*r shifted right by s - 1,
// which is floor(log2(f - 1)), or 0 for f = 2.
//
// f = 1 would need r = 2^64. It gets r = 2^64 - 1 instead, whose high word is x - 1 for 1 <= x <
// 2^64; push corrects the sum for that.
class Reciprocals {
 public:
  Reciprocals() : values_(kTotal) {
    values_[0] = ~std::uint64_t{0};
    for (std::uint32_t frequency = 2; frequency <= kTotal; ++frequency) {
      // 2^(63+s) has up to 80 bits: divide its high part first, then the remainder with 32 zeros.
      const std::uint64_t high = std::uint64_t{1} << (32 + shift(frequency - 1));
      const std::uint64_t low = (high % frequency) << 32;
      values_[frequency - 1] =
          ((high / frequency) << 32) + (low + frequency - 1) / frequency;
    }
  }

  static unsigned shift(std::uint32_t frequency_minus_1) {
    return bit_length(frequency_minus_1 | 1) - 1;
  }

  const std::uint64_t* data() const { return values_.data(); }

 private:
  std::vector<std::uint64_t> values_;  // by frequency - 1
};

const Reciprocals& reciprocals() {
  static const Reciprocals instance;
  return instance;
}

// What is pushed onto the state. An interval is start | (frequency - 1) << 16; as start + frequency
// <= 2^16, no interval has start 0xFFFF and a frequency above 1, and these stand for nibbles.
constexpr std::uint32_t interval_operation(std::uint32_t start, std::uint32_t frequency) {
  return start | (frequency - 1) << 16;
}

constexpr std::uint32_t nibble_operation(std::uint32_t nibble) {
  return 0xFFFFu | (nibble + 1) << 16;
}

// An index is taken as uint32: a negative one is above all rows then.
Status bad_index(std::uint32_t index, std::size_t position, std::size_t num_rows) {
  return Status::bad_argument("index " + std::to_string(static_cast<std::int32_t>(index)) +
                              " at position " + std::to_string(position) +
                              " is not the number of a table row, 0 to " +
                              std::to_string(num_rows - 1));
}

// Operations for this many symbols are made ahead of pushing them: they stay in the L1 cache.
constexpr std::size_t kBlockSymbols = 512;
constexpr std::size_t kMaxOperationsPerSymbol = 2 + kMaxNibbles;

class OperationBlock {
 public:
  // Makes the operations of at most kBlockSymbols symbols; `first` is the position of symbols[0] in
  // the caller's plane, for messages.
  template <typename Symbol, typename Index>
  Status fill(const Symbol* symbols, const Index* indexes, std::size_t count, std::size_t first,
              const Tables& tables) {
    const Span<const Row> rows = tables.rows();
    const std::uint32_t* const cdf = tables.cdf();
    std::uint32_t* out = operations_;
    for (std::size_t i = 0; i < count; ++i) {
      const auto index = static_cast<std::uint32_t>(indexes[i]);
      if (index >= rows.size) return bad_index(index, first + i, rows.size);
      const Row row = rows[index];
      const std::int64_t value = std::int64_t{symbols[i]} - row.offset;
      const bool inside = static_cast<std::uint64_t>(value) < row.count;
      const std::uint32_t interval = inside ? static_cast<std::uint32_t>(value) : row.count;
      const std::uint32_t start = cdf[row.first + interval];
      const std::uint32_t frequency = cdf[row.first + interval + 1] - start;
      if (frequency == 0) {
        return Status::bad_argument(
            "symbol " + std::to_string(symbols[i]) + " at position " + std::to_string(first + i) +
            " falls on " + (inside ? "an interval" : "the escape interval") + " of row " +
            std::to_string(index) + " that has no slots; use a table that gives it one");
      }
      *out++ = interval_operation(start, frequency);
      if (inside) continue;

      const std::uint64_t raw = value < 0 ? 2 * static_cast<std::uint64_t>(-value) - 1
                                          : 2 * (static_cast<std::uint64_t>(value) - row.count);
      if (raw >= kRawEnd) {
        return Status::bad_argument(
            "symbol " + std::to_string(symbols[i]) + " at position " + std::to_string(first + i) +
            " is more than 2**30 away from row " + std::to_string(index) +
            "; the CompressAI stream has no room for it");
      }
      unsigned nibbles = 0;
      while ((raw >> (nibbles * kNibbleBits)) != 0) ++nibbles;
      *out++ = nibble_operation(nibbles);
      for (unsigned k = 0; k < nibbles; ++k) {
        const auto nibble = static_cast<std::uint32_t>(raw >> (k * kNibbleBits)) & kNibbleMask;
        *out++ = nibble_operation(nibble);
      }
    }
    size_ = static_cast<std::size_t>(out - operations_);
    return Status::ok();
  }

  const std::uint32_t* begin() const { return operations_; }
  const std::uint32_t* end() const { return operations_ + size_; }

 private:
  std::uint32_t operations_[kBlockSymbols * kMaxOperationsPerSymbol];
  std::size_t size_ = 0;
};

// The state, and the words that left it, the last one first to be read.
class Stack {
 public:
  Stack() : reciprocals_(reciprocals().data()) {}

  // Pushes the operations from the last to the first.
  void push(const std::uint32_t* begin, const std::uint32_t* end) {
    std::uint64_t x = state_;
    while (end != begin) {
      const std::uint32_t operation = *--end;
      const std::uint32_t start = operation & 0xFFFF;
      const std::uint32_t frequency_minus_1 = operation >> 16;
      if (start + frequency_minus_1 > 0xFFFF) {
        const std::uint32_t nibble = frequency_minus_1 - 1;
        // A nibble is an interval of 2^12 slots out of 2^16.
        if (x >= kStateEnd >> kNibbleBits) x = emit(x);
        x = x << kNibbleBits | nibble;
        continue;
      }
      const std::uint64_t frequency = std::uint64_t{frequency_minus_1} + 1;
      if (x >= frequency << (63 - kPrecision)) x = emit(x);
      // The state becomes floor(x / f) * 2^16 + start + x mod f, that is x + start +
      // floor(x / f) * (2^16 - f): with one multiplication less on the path from state to state.
      // For f = 1 the quotient comes out as x - 1, and 2^16 - 1 is missing in the sum.
      const std::uint64_t quotient = multiply_high(x, reciprocals_[frequency_minus_1]) >>
                                     Reciprocals::shift(frequency_minus_1);
      x += start + (frequency_minus_1 == 0 ? kTotal - 1 : 0);
      x += quotient * (kTotal - frequency);
    }
    state_ = x;
  }

  void finish(std::vector<std::uint8_t>* out) const {
    out->clear();
    out->reserve(kStateBytes + kWordBytes * words_.size());
    append_word(out, static_cast<std::uint32_t>(state_));
    append_word(out, static_cast<std::uint32_t>(state_ >> kWordBits));
    for (auto word = words_.rbegin(); word != words_.rend(); ++word) append_word(out, *word);
  }

 private:
  std::uint64_t emit(std::uint64_t x) {
    words_.push_back(static_cast<std::uint32_t>(x));
    return x >> kWordBits;
  }

  const std::uint64_t* reciprocals_;
  std::uint64_t state_ = kStateLow;
  std::vector<std::uint32_t> words_;
};

template <typename Symbol, typename Index>
Status check_sizes(Span<const Symbol> symbols, Span<const Index> indexes) {
  if (symbols.size == indexes.size) return Status::ok();
  return Status::bad_argument(std::to_string(symbols.size) + " symbols but " +
                              std::to_string(indexes.size) + " indexes; give one index a symbol");
}

Status check_row(std::size_t row, Span<const std::uint32_t> cdf) {
  const std::string name = "row " + std::to_string(row);
  if (cdf[0] != 0 || cdf[cdf.size - 1] != kTotal) {
    // Negative numbers became large ones.
    const auto number = [](std::uint32_t entry) {
      return std::to_string(static_cast<std::int32_t>(entry));
    };
    return Status::bad_argument(name + " runs from " + number(cdf[0]) + " to " +
                                number(cdf[cdf.size - 1]) + "; it must run from 0 to 65536");
  }
  for (std::size_t i = 1; i < cdf.size; ++i) {
    if (static_cast<std::int32_t>(cdf[i]) < static_cast<std::int32_t>(cdf[i - 1])) {
      return Status::bad_argument(name + " falls at entry " + std::to_string(i) +
                                  "; its entries must rise");
    }
  }
  return Status::ok();
}

}  // namespace

Status Tables::build(Span<const std::int32_t> cdfs, Span<const std::int64_t> starts,
                     Span<const std::int32_t> lengths, Span<const std::int32_t> offsets,
                     std::size_t expected_symbols, Tables* tables) {
  const std::size_t num_rows = lengths.size;
  if (starts.size != num_rows || offsets.size != num_rows) {
    return Status::bad_argument("cdfs, lengths and offsets differ in their number of rows");
  }
  if (num_rows == 0 || num_rows > static_cast<std::size_t>(kInt32Max)) {
    return Status::bad_argument("there are " + std::to_string(num_rows) +
                                " rows; tables have 1 to 2**31 - 1");
  }
  Tables result;
  result.rows_.reserve(num_rows);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::int64_t start = starts[row];
    const std::int64_t length = lengths[row];
    if (length < 2 || start < 0 || static_cast<std::uint64_t>(start) > cdfs.size ||
        static_cast<std::uint64_t>(length) > cdfs.size - static_cast<std::uint64_t>(start)) {
      return Status::bad_argument("row " + std::to_string(row) + " has length " +
                                  std::to_string(length) +
                                  "; it must be 2 to the number of entries it is given");
    }
    const std::size_t first = result.cdf_.size();
    // Rows and buckets are numbered with 32 bits.
    if (first + static_cast<std::size_t>(length) > std::numeric_limits<std::uint32_t>::max()) {
      return Status::bad_argument("the tables have 2**32 entries or more; use smaller tables");
    }
    // The caller's array may change under our eyes: what is checked is the copy.
    result.cdf_.insert(result.cdf_.end(), cdfs.data + start, cdfs.data + start + length);
    Status status =
        check_row(row, {result.cdf_.data() + first, static_cast<std::size_t>(length)});
    if (!status.is_ok()) return status;
    result.rows_.push_back({static_cast<std::uint32_t>(first),
                            static_cast<std::uint32_t>(length - 2), offsets[row], 0, 0});
  }
  result.build_buckets(expected_symbols);
  *tables = std::move(result);
  return Status::ok();
}

void Tables::build_buckets(std::size_t expected_symbols) {
  std::size_t total = 0;
  for (Row& row : rows_) {
    const unsigned bits = std::clamp(bit_length(row.count) + kBucketBitsPerCount, kMinBucketBits,
                                     kMaxBucketBits);
    row.bucket_shift = kPrecision - bits;
    row.bucket = static_cast<std::uint32_t>(total);
    total += std::size_t{1} << bits;
    if (total > kMaxBuckets || total / kBucketsPerSymbol > expected_symbols) return;
    // Only possible with many intervals of no slots; the binary search serves such tables.
    if (row.count > kTotal - 1) return;
  }
  buckets_.resize(total);
  for (const Row& row : rows_) {
    const std::uint32_t* const cdf = cdf_.data() + row.first;
    std::uint32_t interval = 0;
    for (std::uint32_t slot = 0; slot < kTotal; slot += 1u << row.bucket_shift) {
      while (cdf[interval + 1] <= slot) ++interval;
      buckets_[row.bucket + (slot >> row.bucket_shift)] = {
          cdf[interval + 1] - cdf[interval], static_cast<std::uint16_t>(cdf[interval]),
          static_cast<std::uint16_t>(interval)};
    }
  }
}

template <typename Symbol, typename Index>
Status encode(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables,
              std::vector<std::uint8_t>* out) {
  Status status = check_sizes(symbols, indexes);
  if (!status.is_ok()) return status;
  Stack stack;
  OperationBlock block;
  for (std::size_t left = symbols.size; left != 0;) {
    const std::size_t first = (left - 1) / kBlockSymbols * kBlockSymbols;
    status = block.fill(symbols.data + first, indexes.data + first, left - first, first, tables);
    if (!status.is_ok()) return status;
    stack.push(block.begin(), block.end());
    left = first;
  }
  stack.finish(out);
  return Status::ok();
}

template <typename Symbol, typename Index>
Status Encoder::append(Span<const Symbol> symbols, Span<const Index> indexes,
                       const Tables& tables) {
  Status status = check_sizes(symbols, indexes);
  if (!status.is_ok()) return status;
  const std::size_t old_size = operations_.size();
  OperationBlock block;
  try {
    for (std::size_t first = 0; first < symbols.size; first += kBlockSymbols) {
      const std::size_t count = std::min(kBlockSymbols, symbols.size - first);
      status = block.fill(symbols.data + first, indexes.data + first, count, first, tables);
      if (!status.is_ok()) break;
      operations_.insert(operations_.end(), block.begin(), block.end());
    }
  } catch (...) {  // no memory
    operations_.resize(old_size);
    throw;
  }
  if (!status.is_ok()) operations_.resize(old_size);
  return status;
}

void Encoder::flush(std::vector<std::uint8_t>* out) {
  Stack stack;
  stack.push(operations_.data(), operations_.data() + operations_.size());
  stack.finish(out);
  operations_ = {};
}

Status Decoder::open(Span<const std::uint8_t> data, Decoder* decoder) {
  if (data.size < kStateBytes) {
    return Status::corrupt("it has " + std::to_string(data.size) +
                           " bytes; the shortest stream has 8");
  }
  const std::uint64_t state =
      load_word(data.data) | std::uint64_t{load_word(data.data + kWordBytes)} << kWordBits;
  // An encoder's states are in this range, and decoding anything keeps a state there: with x >=
  // 2^31, popping leaves at least x / 2^16 >= 2^15, which one word brings back to 2^47 or more, and
  // what is below 2^31 stays below 2^63 with a word.
  if (state < kStateLow || state >= kStateEnd) {
    return Status::corrupt("its state " + std::to_string(state) + " is not in 2**31 to 2**63");
  }
  decoder->data_ = data;
  decoder->position_ = kStateBytes;
  decoder->state_ = state;
  return Status::ok();
}

bool Decoder::at_end() const { return position_ == data_.size && state_ == kStateLow; }

namespace {

// The state and the words of a decoder, in registers while it decodes a plane.
class Reader {
 public:
  Reader(Span<const std::uint8_t> data, std::size_t position, std::uint64_t state)
      : x(state), next_(data.data + position), end_(data.data + data.size) {}

  // False if a word is needed and not there.
  bool renormalize() {
    if (x >= kStateLow) return true;
    if (static_cast<std::size_t>(end_ - next_) < kWordBytes) return false;
    x = x << kWordBits | load_word(next_);
    next_ += kWordBytes;
    return true;
  }

  bool take_nibble(std::uint32_t* nibble) {
    *nibble = static_cast<std::uint32_t>(x) & kNibbleMask;
    x >>= kNibbleBits;
    return renormalize();
  }

  std::size_t position(Span<const std::uint8_t> data) const {
    return static_cast<std::size_t>(next_ - data.data);
  }

  std::uint64_t x;

 private:
  const std::uint8_t* next_;
  const std::uint8_t* end_;
};

// Before decoding, so that a wrong argument is told whatever the data.
template <typename Index>
Status check_indexes(Span<const Index> indexes, std::size_t num_rows) {
  bool all_good = true;
  for (std::size_t i = 0; i < indexes.size; ++i) {
    all_good &= static_cast<std::uint32_t>(indexes[i]) < num_rows;
  }
  if (all_good) return Status::ok();
  for (std::size_t i = 0; i < indexes.size; ++i) {
    const auto index = static_cast<std::uint32_t>(indexes[i]);
    if (index >= num_rows) return bad_index(index, i, num_rows);
  }
  return Status::ok();
}

std::string at_symbol(std::size_t position) { return " at symbol " + std::to_string(position); }

Status ended_early(std::size_t position) {
  return Status::corrupt("it ends" + at_symbol(position));
}

// The value that follows an escape interval.
Status take_escape(Reader* reader, const Row& row, std::size_t position, std::int32_t* symbol) {
  std::uint32_t nibbles = 0;
  if (!reader->take_nibble(&nibbles)) return ended_early(position);
  if (nibbles > kMaxNibbles) {
    return Status::corrupt("the value" + at_symbol(position) + " has more than 8 nibbles");
  }
  std::uint64_t raw = 0;
  for (unsigned k = 0; k < nibbles; ++k) {
    std::uint32_t nibble = 0;
    if (!reader->take_nibble(&nibble)) return ended_early(position);
    raw |= std::uint64_t{nibble} << (k * kNibbleBits);
  }
  const auto half = static_cast<std::int64_t>(raw >> 1);
  const std::int64_t value =
      row.offset + ((raw & 1) != 0 ? -half - 1 : half + static_cast<std::int64_t>(row.count));
  if (raw >= kRawEnd || value < kInt32Min || value > kInt32Max) {
    return Status::corrupt("the value" + at_symbol(position) + " is out of range");
  }
  *symbol = static_cast<std::int32_t>(value);
  return Status::ok();
}

}  // namespace

template <bool kBuckets, typename Index>
Status Decoder::decode_plane(Span<const Index> indexes, const Tables& tables,
                             Span<std::int32_t> symbols) {
  const Span<const Row> rows = tables.rows();
  const std::uint32_t* const all_cdfs = tables.cdf();
  const Bucket* const buckets = tables.buckets();
  Reader reader(data_, position_, state_);
  for (std::size_t i = 0; i < indexes.size; ++i) {
    // Again, as the array may change under our eyes.
    const auto index = static_cast<std::uint32_t>(indexes[i]);
    if (index >= rows.size) return bad_index(index, i, rows.size);
    const Row& row = rows[index];
    const std::uint32_t* const cdf = all_cdfs + row.first;
    const std::uint32_t slot = static_cast<std::uint32_t>(reader.x) & (kTotal - 1);
    std::uint32_t interval, start, frequency;
    if constexpr (kBuckets) {
      const Bucket& bucket = buckets[row.bucket + (slot >> row.bucket_shift)];
      interval = bucket.interval;
      start = bucket.start;
      frequency = bucket.frequency;
      // Ends at the latest with the row: its last entry is 2^16, above every slot.
      if (slot - start >= frequency) {
        while (cdf[interval + 1] <= slot) ++interval;
        start = cdf[interval];
        frequency = cdf[interval + 1] - start;
      }
    } else {
      // The first entry above the slot; entry 0 is not, entry count + 1 is.
      const std::uint32_t* const above = std::upper_bound(cdf + 1, cdf + row.count + 1, slot);
      interval = static_cast<std::uint32_t>(above - cdf) - 1;
      start = cdf[interval];
      frequency = cdf[interval + 1] - start;
    }
    reader.x = frequency * (reader.x >> kPrecision) + (slot - start);
    if (!reader.renormalize()) return ended_early(i);
    // If the sum leaves int32, the row has more values than int32 above its offset.
    const std::int64_t symbol = std::int64_t{row.offset} + interval;
    symbols[i] = static_cast<std::int32_t>(symbol);
    if (interval == row.count) {
      Status status = take_escape(&reader, row, i, &symbols[i]);
      if (!status.is_ok()) return status;
    } else if (symbol > kInt32Max) {
      return Status::corrupt("the value" + at_symbol(i) + " is out of range");
    }
  }
  position_ = reader.position(data_);
  state_ = reader.x;
  return Status::ok();
}

template <typename Index>
Status Decoder::decode(Span<const Index> indexes, const Tables& tables,
                       Span<std::int32_t> symbols) {
  if (indexes.size != symbols.size) {
    return Status::bad_argument("the output has another size than the indexes");
  }
  Status status = check_indexes(indexes, tables.rows().size);
  if (!status.is_ok()) return status;
  return tables.has_buckets() ? decode_plane<true>(indexes, tables, symbols)
                              : decode_plane<false>(indexes, tables, symbols);
}

#define ICMH_INSTANTIATE_ENCODERS(Symbol, Index)                                              \
  template Status encode(Span<const Symbol>, Span<const Index>, const Tables&,                \
                         std::vector<std::uint8_t>*);                                         \
  template Status Encoder::append(Span<const Symbol>, Span<const Index>, const Tables&);
#define ICMH_INSTANTIATE(Index)                                                               \
  ICMH_INSTANTIATE_ENCODERS(std::int8_t, Index)                                               \
  ICMH_INSTANTIATE_ENCODERS(std::int16_t, Index)                                              \
  ICMH_INSTANTIATE_ENCODERS(std::int32_t, Index)                                              \
  template Status Decoder::decode(Span<const Index>, const Tables&, Span<std::int32_t>);
ICMH_INSTANTIATE(std::uint8_t)
ICMH_INSTANTIATE(std::uint16_t)
ICMH_INSTANTIATE(std::int32_t)
#undef ICMH_INSTANTIATE
#undef ICMH_INSTANTIATE_ENCODERS

}  // namespace icmh::rans::compat
