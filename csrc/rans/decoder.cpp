#include <algorithm>
#include <cstring>
#include <string>

#include "common/thread_pool.h"
#include "rans/bits.h"
#include "rans/coder.h"
#include "rans/format.h"
#include "rans/lanes.h"
#include "rans/layout.h"

namespace icmh::rans {
namespace {

template <typename Index, typename Symbol>
class ChunkDecoder {
 public:
  ChunkDecoder(Span<const Index> indexes, const Tables& tables, Span<Symbol> symbols)
      : num_symbols_(indexes.size) {
    run_.tables = &tables;
    run_.indexes = indexes.data;
    run_.symbols = symbols.data;
  }

  Status decode(Span<const std::uint8_t> data, unsigned lanes, SimdLevel level,
                std::uint16_t* seal) {
    alignas(64) std::uint32_t states[kMaxLanes];
    std::size_t tail_first = 0;
    Status status = take_head(lanes, &data, &tail_first, states);
    if (!status.is_ok()) return status;
    if (states[lanes - 1] == 0) {
      return Status::corrupt("the chunk ends within its " + std::to_string(lanes) +
                             " lane states");
    }
    if (!decode_lanes(tail_first, lanes, level, states, &data)) {
      return Status::corrupt("the chunk ends before its last word");
    }
    status = decode_tail(tail_first, lanes, states, seal);
    if (!status.is_ok()) return status;
    return decode_escapes(data);
  }

  // For a chunk of which only the beginning may be there: known[i] becomes 1 where that tells symbol
  // i, and 0 where it does not. False if what is there is no beginning of a chunk; symbols and
  // `known` then mean nothing.
  bool decode_beginning(Span<const std::uint8_t> data, unsigned lanes, SimdLevel level,
                        Span<std::uint8_t> known) {
    std::fill(known.begin(), known.end(), std::uint8_t{0});
    alignas(64) std::uint32_t states[kMaxLanes];
    std::size_t tail_first = 0;
    if (!take_head(lanes, &data, &tail_first, states).is_ok()) return false;

    const std::uint8_t* next = data.begin();
    std::size_t i = 0;
    if (states[lanes - 1] != 0) {
      const auto groups = decode_groups_of<Index, Symbol>(level, lanes);
      i = groups(&run_, 0, tail_first, states, &next, data.end());
      std::fill(known.begin(), known.begin() + i, std::uint8_t{1});
    }
    // Every lane goes on until it needs a word that is not there: its state stays below kStateLow, as
    // those are that are not there themselves. Words come in one order for all lanes, so that after
    // the first one that lacks a word no other gets any.
    auto running = static_cast<unsigned>(std::count_if(
        states, states + lanes, [](std::uint32_t state) { return state >= kStateLow; }));
    for (; i < tail_first && running != 0; ++i) {
      std::uint32_t& state = states[i & (lanes - 1)];
      if (state < kStateLow) continue;
      state = run_.pop(i, state);
      known[i] = 1;
      if (state >= kStateLow) continue;
      if (data.end() - next >= 2) {
        state = renormalize(state, &next);
      } else {
        --running;
      }
    }

    if (running < lanes) {
      if (!decode_cut_tail(tail_first, lanes, states, known)) return false;
    } else {
      std::uint16_t seal = 0;
      if (!decode_tail(tail_first, lanes, states, &seal).is_ok()) return false;
      std::fill(known.begin() + tail_first, known.end(), std::uint8_t{1});
      // Behind the last word: no value outside its table is known before.
      const auto used = static_cast<std::size_t>(next - data.begin());
      const Status escapes = decode_escapes(data.subspan(used, data.size - used));
      if (!escapes.is_ok() && !escapes_end_early_) return false;
    }
    for (std::size_t k = escapes_read_; k < run_.escapes.size(); ++k) known[run_.escapes[k]] = 0;
    return run_.fits;
  }

  std::uint32_t highest_index() const { return run_.highest_index; }

 private:
  // Splits the tail length and the states off the front. A state that is not there becomes 0, and
  // nothing is left then.
  Status take_head(unsigned lanes, Span<const std::uint8_t>* data, std::size_t* tail_first,
                   std::uint32_t* states) const {
    std::uint64_t tail = 0;
    if (lanes > 1 && (!take_varint(data, &tail) || tail > num_symbols_)) {
      return Status::corrupt("the chunk has no valid tail length");
    }
    *tail_first = num_symbols_ - static_cast<std::size_t>(tail);

    BitReader state_bits(*data);
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const auto length = static_cast<unsigned>(state_bits.take(kStateLengthBits));
      const auto state = static_cast<std::uint32_t>(std::uint64_t{1} << (kWordBits + length) |
                                                    state_bits.take(kWordBits + length));
      states[lane] = state_bits.failed() ? 0 : state;
    }
    if (!state_bits.fill_is_zero()) {
      return Status::corrupt("the bits after the lane states are not zero");
    }
    *data = state_bits.rest();
    return Status::ok();
  }

  // Symbols [0, end); takes their words from the front of *data, false if there are too few.
  bool decode_lanes(std::size_t end, unsigned lanes, SimdLevel level, std::uint32_t* states,
                    Span<const std::uint8_t>* data) {
    const auto groups = decode_groups_of<Index, Symbol>(level, lanes);
    const std::uint8_t* next = data->begin();
    std::size_t i = groups(&run_, 0, end, states, &next, data->end());
    // The last words, with zeros behind them for a group that would read too far. That a word was
    // taken from the zeros shows in the end.
    const auto left = static_cast<std::size_t>(data->end() - next);
    std::uint8_t padded[6 * kMaxLanes] = {};
    const std::size_t copied = std::min(left, sizeof(padded) - 2 * lanes);
    if (copied != 0) std::memcpy(padded, next, copied);
    const std::uint8_t* word = padded;
    while (i < end && static_cast<std::size_t>(word - padded) <= copied) {
      const std::size_t from = i;
      i = groups(&run_, i, end, states, &word, padded + sizeof(padded));
      if (i == from) break;
    }
    for (; i < end && static_cast<std::size_t>(word - padded) <= copied; ++i) {
      const unsigned lane = static_cast<unsigned>(i) & (lanes - 1);
      states[lane] = renormalize(run_.pop(i, states[lane]), &word);
    }
    const auto used = static_cast<std::size_t>(word - padded);
    if (used > copied) return false;
    next += used;
    *data = {next, left - used};
    return true;
  }

  // The caller makes sure that a word can be read.
  static std::uint32_t renormalize(std::uint32_t x, const std::uint8_t** word) {
    if (x >= kStateLow) return x;
    x = x << kWordBits | load_u16(*word);
    *word += 2;
    return x;
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
    const std::uint8_t* word = words;
    const std::uint8_t* const end = words + 2 * (lanes - 1);
    std::uint32_t state = states[0];
    for (std::size_t i = first; i < num_symbols_; ++i) {
      state = run_.pop(i, state);
      if (state < kStateLow && word == end) break;
      state = renormalize(state, &word);
    }
    if (state >> kWordBits != 1) {
      return Status::corrupt("lane 0 does not end in its first state");
    }
    *seal = static_cast<std::uint16_t>(state);
    for (; word != end; ++word) {
      if (*word != 0) return Status::corrupt("a lane ends with a word that nothing reads");
    }
    return Status::ok();
  }

  // The same as far as it goes without the lanes whose states are below kStateLow; false if those
  // of the others are not what an encoder starts from.
  bool decode_cut_tail(std::size_t first, unsigned lanes, const std::uint32_t* states,
                       Span<std::uint8_t> known) {
    for (unsigned lane = 1; lane < lanes; ++lane) {
      if (states[lane] >= 2 * kStateLow) return false;
    }
    std::uint32_t state = states[0];
    unsigned lane = 1;  // whose word is the next
    for (std::size_t i = first; i < num_symbols_ && state >= kStateLow; ++i) {
      state = run_.pop(i, state);
      known[i] = 1;
      if (state >= kStateLow) continue;
      if (lane == lanes) return false;
      if (states[lane] < kStateLow) return true;
      state = state << kWordBits | (states[lane] - kStateLow);
      ++lane;
    }
    return state < 2 * kStateLow;
  }

  Status decode_escapes(Span<const std::uint8_t> data) {
    BitReader reader(data);
    for (const std::size_t i : run_.escapes) {
      const Row& row = run_.tables->row(clamp_row(static_cast<std::uint32_t>(run_.indexes[i]),
                                                  run_.tables->num_rows() - 1));
      Escape escape;
      if (!Escape::read(&reader, &escape)) {
        escapes_end_early_ = reader.failed();
        return Status::corrupt("the chunk ends within a value outside its table");
      }
      const std::int64_t value = escape.value(row.offset, row.count);
      if (value != static_cast<std::int32_t>(value)) {
        return Status::corrupt("a value outside its table does not fit 32 bits");
      }
      if (value != static_cast<Symbol>(value)) run_.fits = false;
      run_.symbols[i] = static_cast<Symbol>(value);
      ++escapes_read_;
    }
    if (!reader.fill_is_zero() || reader.rest().size != 0) {
      return Status::corrupt("there are bytes after the last symbol");
    }
    if (!run_.fits) {
      return Status::corrupt("a symbol does not fit the " + std::to_string(8 * sizeof(Symbol)) +
                             " bits asked for");
    }
    return Status::ok();
  }

  std::size_t num_symbols_;
  std::size_t escapes_read_ = 0;
  bool escapes_end_early_ = false;
  DecodeRun<Index, Symbol> run_;
};

// Splits off the first `size` bytes; false if there are fewer.
bool take_bytes(Span<const std::uint8_t>* data, std::uint64_t size,
                Span<const std::uint8_t>* part) {
  if (size > data->size) return false;
  *part = data->subspan(0, static_cast<std::size_t>(size));
  *data = data->subspan(part->size, data->size - part->size);
  return true;
}

// What a plane of at least one symbol is made of.
struct Parts {
  unsigned lanes = 1;
  ChunkPlan plan{1, 0};
  std::vector<Span<const std::uint8_t>> chunks;  // of a beginning, the last one is cut
};

// `is_beginning`: of the stream only the first bytes are there, down to none; the chunks are then
// as many as have any.
Status split(Span<const std::uint8_t> data, std::size_t num_symbols, bool is_beginning,
             Parts* parts) {
  if (data.size == 0) return Status::corrupt("the stream is empty");
  const std::uint8_t head = data[0];
  data = data.subspan(1, data.size - 1);
  const unsigned lanes_log2 = head & kLanesMask;
  if ((head & kReservedMask) != 0 || lanes_log2 > kMaxLanesLog2) {
    return Status::corrupt("first byte " + std::to_string(head) + " is not a known layout");
  }
  if (num_symbols == 0) {
    if (head == 0 && data.size == 0) return Status::ok();
    return Status::corrupt("a stream of 0 symbols is a single zero byte");
  }
  std::uint64_t num_chunks = 1;
  if ((head & kChunkedFlag) != 0 &&
      (!take_varint(&data, &num_chunks) || num_chunks < 2 || num_chunks > num_symbols)) {
    return Status::corrupt("the number of chunks is not in 2 to the number of symbols");
  }
  parts->lanes = 1u << lanes_log2;
  parts->plan = ChunkPlan::of(num_symbols, static_cast<std::size_t>(num_chunks));
  if (!parts->plan.is_valid(num_symbols)) {
    return Status::corrupt(std::to_string(num_symbols) + " symbols do not split into " +
                           std::to_string(num_chunks) + " chunks");
  }
  // Every length takes at least a byte: this comes before the allocation below.
  if (num_chunks - 1 > data.size) {
    return Status::corrupt("the stream ends within its chunk lengths");
  }
  std::vector<std::uint64_t> num_bytes(static_cast<std::size_t>(num_chunks) - 1);
  for (std::uint64_t& bytes : num_bytes) {
    if (!take_varint(&data, &bytes)) {
      return Status::corrupt("the stream ends within its chunk lengths");
    }
  }
  parts->chunks.resize(parts->plan.count);
  for (std::size_t i = 0; i < parts->plan.count; ++i) {
    const std::uint64_t bytes = i + 1 < parts->plan.count ? num_bytes[i] : data.size;
    if (take_bytes(&data, bytes, &parts->chunks[i])) continue;
    if (!is_beginning) {
      return Status::corrupt("the stream ends within chunk " + std::to_string(i));
    }
    parts->chunks.resize(i);
    parts->chunks.push_back(data);
    break;
  }
  return Status::ok();
}

}  // namespace

template <typename Index, typename Symbol>
Status decode(Span<const std::uint8_t> data, Span<const Index> indexes, const Tables& tables,
              const DecodeOptions& options, Span<Symbol> symbols, std::uint16_t* seal) {
  const std::size_t num_symbols = indexes.size;
  *seal = 0;
  if (symbols.size != num_symbols) {
    return Status::bad_argument("the output has not as many elements as the indexes");
  }
  Parts parts;
  Status status = split(data, num_symbols, false, &parts);
  if (!status.is_ok() || num_symbols == 0) return status;

  struct Result {
    Status status = Status::ok();
    std::uint32_t highest_index = 0;
    std::uint16_t seal = 0;
  };
  std::vector<Result> results(parts.plan.count);
  parallel_for(parts.plan.count, options.threads, [&](std::size_t i) {
    const std::size_t first = parts.plan.first_symbol(i);
    const std::size_t count = parts.plan.symbols_in(i, num_symbols);
    ChunkDecoder<Index, Symbol> decoder(indexes.subspan(first, count), tables,
                                        symbols.subspan(first, count));
    results[i].status =
        decoder.decode(parts.chunks[i], parts.lanes, options.level, &results[i].seal);
    results[i].highest_index = decoder.highest_index();
  });

  // The first chunk that is wrong decides, however the threads ran.
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (results[i].highest_index >= tables.num_rows()) return bad_index(tables.num_rows());
    if (!results[i].status.is_ok()) return results[i].status;
    if (results[i].seal != results[0].seal) {
      return Status::corrupt("chunk " + std::to_string(i) + " has another seal than the first");
    }
  }
  *seal = results[0].seal;
  return Status::ok();
}

template <typename Index, typename Symbol>
Status decode_beginning(Span<const std::uint8_t> data, Span<const Index> indexes,
                        const Tables& tables, const DecodeOptions& options, Span<Symbol> symbols,
                        Span<std::uint8_t> known) {
  const std::size_t num_symbols = indexes.size;
  if (symbols.size != num_symbols || known.size != num_symbols) {
    return Status::bad_argument("the output has not as many elements as the indexes");
  }
  // All of them, not those alone that this beginning comes to.
  for (const Index& index : indexes) {
    if (static_cast<std::uint32_t>(index) >= tables.num_rows()) {
      return bad_index(tables.num_rows());
    }
  }
  Parts parts;
  std::size_t end = 0;  // of the chunks that were looked at
  if (num_symbols != 0 && split(data, num_symbols, true, &parts).is_ok()) {
    for (std::size_t i = 0; i < parts.chunks.size(); ++i) {
      const std::size_t first = parts.plan.first_symbol(i);
      const std::size_t count = parts.plan.symbols_in(i, num_symbols);
      const Span<std::uint8_t> part = known.subspan(first, count);
      ChunkDecoder<Index, Symbol> decoder(indexes.subspan(first, count), tables,
                                          symbols.subspan(first, count));
      if (!decoder.decode_beginning(parts.chunks[i], parts.lanes, options.level, part)) {
        std::fill(part.begin(), part.end(), std::uint8_t{0});
      }
      end = first + count;
      if (std::find(part.begin(), part.end(), 0) != part.end()) break;
    }
  }
  std::fill(known.begin() + end, known.end(), std::uint8_t{0});
  for (std::size_t i = 0; i < num_symbols; ++i) {
    if (known[i] == 0) symbols[i] = 0;
  }
  return Status::ok();
}

#define ICMH_INSTANTIATE(Index, Symbol)                                                    \
  template Status decode(Span<const std::uint8_t>, Span<const Index>, const Tables&,       \
                         const DecodeOptions&, Span<Symbol>, std::uint16_t*);              \
  template Status decode_beginning(Span<const std::uint8_t>, Span<const Index>,            \
                                   const Tables&, const DecodeOptions&, Span<Symbol>,      \
                                   Span<std::uint8_t>);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)
#undef ICMH_INSTANTIATE

}  // namespace icmh::rans
