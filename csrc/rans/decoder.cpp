#include <string>

#include "rans/bits.h"
#include "rans/coder.h"
#include "rans/format.h"

namespace icmh::rans {
namespace {

// Where 16-bit words come from. `checked` reads fail softly at the end; unchecked ones are for
// places that have made sure that enough words are left.
struct WordReader {
  const std::uint8_t* next;
  const std::uint8_t* end;
  bool failed = false;

  std::size_t words_left() const { return static_cast<std::size_t>(end - next) / 2; }

  std::uint32_t renormalize_unchecked(std::uint32_t x) {
    const std::uint32_t word = load_u16(next);
    const bool low = x < kStateLow;
    next += low ? 2 : 0;
    return low ? x << kWordBits | word : x;
  }

  std::uint32_t renormalize_checked(std::uint32_t x) {
    if (x >= kStateLow) return x;
    if (words_left() == 0) {
      failed = true;
      return kStateLow;  // any valid state: the chunk is refused in the end
    }
    return renormalize_unchecked(x);
  }
};

template <typename Index>
class ChunkDecoder {
 public:
  ChunkDecoder(Span<const Index> indexes, const Tables& tables, Span<std::int32_t> symbols)
      : indexes_(indexes),
        symbols_(symbols),
        rows_(tables.rows()),
        intervals_(tables.decoder_intervals()),
        bucket_first_(tables.bucket_first()),
        bucket_bits_(tables.bucket_bits()),
        bucket_shift_(tables.bucket_shift()),
        precision_(tables.precision()) {}

  Status decode(Span<const std::uint8_t> data, unsigned lanes, std::uint16_t* seal) {
    const std::size_t count = indexes_.size;
    std::uint64_t tail = 0;
    if (lanes > 1 && (!take_varint(&data, &tail) || tail > count)) {
      return Status::corrupt("the chunk has no valid tail length");
    }
    if (data.size < 4 * lanes) {
      return Status::corrupt("the chunk ends within its " + std::to_string(lanes) + " lane states");
    }
    std::uint32_t states[kMaxLanes];
    for (unsigned lane = 0; lane < lanes; ++lane) {
      states[lane] = load_u32(data.data + 4 * lane);
      if (states[lane] < kStateLow) {
        return Status::corrupt("the state of lane " + std::to_string(lane) + " is below 2**16");
      }
    }

    WordReader reader{data.data + 4 * lanes, data.end()};
    decode_lanes(count - tail, lanes, states, &reader);
    if (reader.failed) return Status::corrupt("the chunk ends before its last word");
    Status status = decode_tail(count - tail, lanes, states, seal);
    if (!status.is_ok()) return status;
    return decode_escapes({reader.next, static_cast<std::size_t>(reader.end - reader.next)});
  }

 private:
  // Takes symbol i out of a state; the state it returns is not renormalised.
  inline std::uint32_t pop(std::size_t i, std::uint32_t x) {
    const std::size_t row_number = static_cast<std::size_t>(indexes_[i]);
    const Row& row = rows_[row_number];
    const std::uint32_t slot = x & ((1u << precision_) - 1);
    std::uint32_t number = bucket_first_[(row_number << bucket_bits_) + (slot >> bucket_shift_)];
    const DecoderInterval* interval = intervals_ + row.first_interval + number;
    // Ends within the row: the intervals of a row cover every slot.
    while (slot - interval->start > interval->frequency_minus_1) {
      ++interval;
      ++number;
    }
    symbols_[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(row.offset) + number);
    if (number == row.count) escapes_.push_back(i);
    return (interval->frequency_minus_1 + 1u) * (x >> precision_) + (slot - interval->start);
  }

  void decode_lanes(std::size_t count, unsigned lanes, std::uint32_t* states, WordReader* reader) {
    std::size_t i = 0;
    // A lane reads at most one word per symbol, so `lanes` words are enough for a group.
    for (; i + lanes <= count && reader->words_left() >= lanes; i += lanes) {
      for (unsigned lane = 0; lane < lanes; ++lane) {
        states[lane] = reader->renormalize_unchecked(pop(i + lane, states[lane]));
      }
    }
    for (; i < count && !reader->failed; ++i) {
      const unsigned lane = static_cast<unsigned>(i) & (lanes - 1);
      states[lane] = reader->renormalize_checked(pop(i, states[lane]));
    }
  }

  // The last symbols: lane 0 goes on alone and reads the words that the other lanes end with.
  Status decode_tail(std::size_t first, unsigned lanes, const std::uint32_t* states,
                     std::uint16_t* seal) {
    std::uint8_t words[2 * kMaxLanes];
    for (unsigned lane = 1; lane < lanes; ++lane) {
      if (states[lane] >> kWordBits != 1) {
        return Status::corrupt("lane " + std::to_string(lane) + " does not end in its first state");
      }
      words[2 * lane - 2] = static_cast<std::uint8_t>(states[lane]);
      words[2 * lane - 1] = static_cast<std::uint8_t>(states[lane] >> 8);
    }
    WordReader reader{words, words + 2 * (lanes - 1)};
    std::uint32_t state = states[0];
    for (std::size_t i = first; i < indexes_.size && !reader.failed; ++i) {
      state = reader.renormalize_checked(pop(i, state));
    }
    if (reader.failed || state >> kWordBits != 1) {
      return Status::corrupt("lane 0 does not end in its first state");
    }
    *seal = static_cast<std::uint16_t>(state);
    for (; reader.next != reader.end; ++reader.next) {
      if (*reader.next != 0) return Status::corrupt("a lane ends with a word that nothing reads");
    }
    return Status::ok();
  }

  Status decode_escapes(Span<const std::uint8_t> data) {
    BitReader reader(data);
    for (const std::size_t i : escapes_) {
      const Row& row = rows_[indexes_[i]];
      Escape escape;
      if (!Escape::read(&reader, &escape)) {
        return Status::corrupt("the chunk ends within a value outside its table");
      }
      const std::int64_t value = escape.value(row.offset, row.count);
      if (value != static_cast<std::int32_t>(value)) {
        return Status::corrupt("a value outside its table does not fit 32 bits");
      }
      symbols_[i] = static_cast<std::int32_t>(value);
    }
    if (!reader.at_end()) return Status::corrupt("there are bytes after the last symbol");
    return Status::ok();
  }

  Span<const Index> indexes_;
  Span<std::int32_t> symbols_;
  const Row* rows_;
  const DecoderInterval* intervals_;
  const std::uint16_t* bucket_first_;
  unsigned bucket_bits_;
  unsigned bucket_shift_;
  unsigned precision_;
  std::vector<std::size_t> escapes_;
};

// Splits off the first `size` bytes; false if there are fewer.
bool take_bytes(Span<const std::uint8_t>* data, std::uint64_t size,
                Span<const std::uint8_t>* part) {
  if (size > data->size) return false;
  *part = data->subspan(0, static_cast<std::size_t>(size));
  *data = data->subspan(part->size, data->size - part->size);
  return true;
}

}  // namespace

template <typename Index>
Status decode(Span<const std::uint8_t> data, Span<const Index> indexes, const Tables& tables,
              Span<std::int32_t> symbols, std::uint16_t* seal) {
  const std::size_t num_symbols = indexes.size;
  if (symbols.size != num_symbols) {
    return Status::bad_argument("the output has not as many elements as the indexes");
  }
  Status status = check_indexes(indexes, tables.num_rows());
  if (!status.is_ok()) return status;

  if (data.size == 0) return Status::corrupt("the stream is empty");
  const std::uint8_t head = data[0];
  data = data.subspan(1, data.size - 1);
  const unsigned lanes_log2 = head & kLanesMask;
  if ((head & kReservedMask) != 0 || lanes_log2 > kMaxLanesLog2) {
    return Status::corrupt("first byte " + std::to_string(head) + " is not a known layout");
  }
  if (num_symbols == 0) {
    *seal = 0;
    if (head == 0 && data.size == 0) return Status::ok();
    return Status::corrupt("a stream of 0 symbols is a single zero byte");
  }

  std::uint64_t num_chunks = 1;
  if ((head & kChunkedFlag) != 0) {
    if (!take_varint(&data, &num_chunks) || num_chunks < 2 || num_chunks > num_symbols) {
      return Status::corrupt("the number of chunks is not in 2 to the number of symbols");
    }
  }
  const auto plan = ChunkPlan::of(num_symbols, static_cast<std::size_t>(num_chunks));
  if (!plan.is_valid(num_symbols)) {
    return Status::corrupt(std::to_string(num_symbols) + " symbols do not split into " +
                           std::to_string(num_chunks) + " chunks");
  }
  // Every length takes at least a byte: this comes before the allocation below.
  if (plan.count - 1 > data.size) {
    return Status::corrupt("the stream ends within its chunk lengths");
  }
  std::vector<std::uint64_t> chunk_bytes(plan.count - 1);
  for (std::uint64_t& bytes : chunk_bytes) {
    if (!take_varint(&data, &bytes)) {
      return Status::corrupt("the stream ends within its chunk lengths");
    }
  }

  for (std::size_t chunk = 0; chunk < plan.count; ++chunk) {
    Span<const std::uint8_t> part;
    if (!take_bytes(&data, chunk + 1 < plan.count ? chunk_bytes[chunk] : data.size, &part)) {
      return Status::corrupt("the stream ends within chunk " + std::to_string(chunk));
    }
    const std::size_t first = chunk * plan.size;
    const std::size_t count = plan.symbols_in(chunk, num_symbols);
    ChunkDecoder<Index> decoder(indexes.subspan(first, count), tables,
                                symbols.subspan(first, count));
    std::uint16_t chunk_seal = 0;
    status = decoder.decode(part, 1u << lanes_log2, &chunk_seal);
    if (!status.is_ok()) return status;
    if (chunk != 0 && chunk_seal != *seal) {
      return Status::corrupt("chunk " + std::to_string(chunk) + " has another seal than the first");
    }
    *seal = chunk_seal;
  }
  return Status::ok();
}

template Status decode(Span<const std::uint8_t>, Span<const std::uint8_t>, const Tables&,
                       Span<std::int32_t>, std::uint16_t*);
template Status decode(Span<const std::uint8_t>, Span<const std::uint16_t>, const Tables&,
                       Span<std::int32_t>, std::uint16_t*);
template Status decode(Span<const std::uint8_t>, Span<const std::int32_t>, const Tables&,
                       Span<std::int32_t>, std::uint16_t*);

}  // namespace icmh::rans
