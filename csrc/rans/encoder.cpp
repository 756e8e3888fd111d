#include <string>

#include "rans/bits.h"
#include "rans/coder.h"
#include "rans/format.h"

namespace icmh::rans {
namespace {

// Number of the interval that codes `symbol` in `row`; row.count is the escape.
inline std::uint32_t interval_of(std::int32_t symbol, const Row& row) {
  const auto above = static_cast<std::uint64_t>(std::int64_t{symbol} - row.offset);
  return above < row.count ? static_cast<std::uint32_t>(above) : row.count;
}

template <typename Index>
class PlaneEncoder {
 public:
  PlaneEncoder(Span<const std::int32_t> symbols, Span<const Index> indexes, const Tables& tables,
               std::uint16_t seal)
      : symbols_(symbols), indexes_(indexes), tables_(tables), seal_(seal) {}

  // The payload without states, close enough to choose lanes and chunks by.
  std::uint64_t estimated_bytes() const {
    std::uint64_t units = 0;
    std::uint64_t escape_bits = 0;
    for (std::size_t i = 0; i < symbols_.size; ++i) {
      const Row& row = tables_.rows()[indexes_[i]];
      const std::uint32_t interval = interval_of(symbols_[i], row);
      units += tables_.encoder_intervals()[row.first_interval + interval].cost;
      if (interval == row.count) {
        escape_bits += Escape::of(symbols_[i], row.offset, row.count).num_bits();
      }
    }
    return (units / kCostUnitsPerBit + escape_bits) / 8;
  }

  // Appends the chunk of symbols [first, first + count).
  void encode_chunk(std::size_t first, std::size_t count, unsigned lanes,
                    std::vector<std::uint8_t>* out) {
    escapes_.clear();
    // One word per symbol at most, and one more because push() always stores a word.
    words_.resize(count + 1);
    std::uint16_t* const words_end = words_.data() + words_.size();
    std::uint16_t* words = words_end;

    std::uint32_t states[kMaxLanes];
    const std::size_t tail = encode_tail(first, count, lanes, states);
    std::size_t i = count - tail;
    while (i % lanes != 0) {
      --i;
      push(first + i, &states[i % lanes], &words);
    }
    while (i != 0) {
      i -= lanes;
      for (unsigned lane = lanes; lane-- != 0;) push(first + i + lane, &states[lane], &words);
    }

    if (lanes > 1) append_varint(out, tail);
    for (unsigned lane = 0; lane < lanes; ++lane) append_u32(out, states[lane]);
    for (; words != words_end; ++words) {
      out->push_back(static_cast<std::uint8_t>(*words));
      out->push_back(static_cast<std::uint8_t>(*words >> 8));
    }
    BitWriter writer(out);
    for (auto escape = escapes_.rbegin(); escape != escapes_.rend(); ++escape) {
      escape->write(&writer);
    }
  }

 private:
  // Codes symbol i into a state, storing at most one word below *words.
  void push(std::size_t i, std::uint32_t* state, std::uint16_t** words) {
    const Row& row = tables_.rows()[indexes_[i]];
    const std::uint32_t number = interval_of(symbols_[i], row);
    if (number == row.count) {
      escapes_.push_back(Escape::of(symbols_[i], row.offset, row.count));
    }
    const EncoderInterval& interval = tables_.encoder_intervals()[row.first_interval + number];
    const unsigned precision = tables_.precision();
    const std::uint32_t frequency = interval.frequency_minus_1 + 1u;

    std::uint32_t x = *state;
    const unsigned moves = (x >> (32 - precision)) >= frequency ? 1 : 0;
    (*words)[-1] = static_cast<std::uint16_t>(x);
    *words -= moves;
    x >>= moves * kWordBits;
    const auto quotient =
        static_cast<std::uint32_t>((x * interval.reciprocal) >> (32 + precision));
    *state = x + interval.start + quotient * ((1u << precision) - frequency);
  }

  // Codes the last symbols in lane 0 alone until its words fill the initial states of the other
  // lanes, whose low 16 bits would otherwise carry nothing. Sets all initial states, returns the
  // number of symbols.
  std::size_t encode_tail(std::size_t first, std::size_t count, unsigned lanes,
                          std::uint32_t* states) {
    std::uint16_t buffer[kMaxLanes + 1];
    std::uint16_t* const end = buffer + kMaxLanes + 1;
    std::uint16_t* words = end;
    std::uint32_t state = kStateLow | seal_;
    std::size_t tail = 0;
    const std::size_t most = count < kMaxTailSymbolsPerLane * lanes
                                 ? count
                                 : kMaxTailSymbolsPerLane * lanes;
    while (tail < most && end - words < static_cast<std::ptrdiff_t>(lanes - 1)) {
      ++tail;
      push(first + count - tail, &state, &words);
    }
    states[0] = state;
    for (unsigned lane = 1; lane < lanes; ++lane) {
      states[lane] = kStateLow | (words != end ? *words++ : 0u);
    }
    return tail;
  }

  Span<const std::int32_t> symbols_;
  Span<const Index> indexes_;
  const Tables& tables_;
  std::uint16_t seal_;
  std::vector<std::uint16_t> words_;
  std::vector<Escape> escapes_;  // last symbol first
};

std::size_t choose_chunks(std::uint64_t payload_bytes, std::size_t num_symbols) {
  const std::uint64_t by_bytes = payload_bytes / kPayloadBytesPerChunk;
  const std::uint64_t by_symbols = num_symbols / kSymbolsPerChunk;
  const std::uint64_t chunks = by_bytes < by_symbols ? by_bytes : by_symbols;
  return chunks < 1 ? 1 : static_cast<std::size_t>(chunks);
}

unsigned choose_lanes(std::uint64_t chunk_bytes) {
  unsigned lanes = kMaxLanes;
  while (lanes > 1 && lanes * kPayloadBytesPerLane > chunk_bytes) lanes /= 2;
  return lanes;
}

unsigned log2_of_lanes(unsigned lanes) {
  for (unsigned log2 = 0; log2 <= kMaxLanesLog2; ++log2) {
    if (lanes == 1u << log2) return log2;
  }
  return kMaxLanesLog2 + 1;
}

}  // namespace

template <typename Index>
Status encode(Span<const std::int32_t> symbols, Span<const Index> indexes, const Tables& tables,
              const EncodeOptions& options, std::vector<std::uint8_t>* out) {
  const std::size_t num_symbols = symbols.size;
  if (indexes.size != num_symbols) {
    return Status::bad_argument("there are " + std::to_string(num_symbols) + " symbols but " +
                                std::to_string(indexes.size) + " indexes");
  }
  Status status = check_indexes(indexes, tables.num_rows());
  if (!status.is_ok()) return status;
  out->clear();
  if (num_symbols == 0) {
    if (options.seal != 0) return Status::bad_argument("a stream of 0 symbols carries no seal");
    out->push_back(0);
    return Status::ok();
  }

  PlaneEncoder<Index> encoder(symbols, indexes, tables, options.seal);
  const bool must_choose = options.chunks == 0 || options.lanes == 0;
  const std::uint64_t payload_bytes = must_choose ? encoder.estimated_bytes() : 0;
  const std::size_t num_chunks =
      options.chunks != 0 ? options.chunks : choose_chunks(payload_bytes, num_symbols);
  const auto plan = ChunkPlan::of(num_symbols, num_chunks);
  if (!plan.is_valid(num_symbols)) {
    return Status::bad_argument(std::to_string(num_symbols) + " symbols do not split into " +
                                std::to_string(plan.count) + " chunks");
  }
  const unsigned lanes =
      options.lanes != 0 ? options.lanes : choose_lanes(payload_bytes / plan.count);
  const unsigned lanes_log2 = log2_of_lanes(lanes);
  if (lanes_log2 > kMaxLanesLog2) {
    return Status::bad_argument(std::to_string(lanes) + " lanes; choose 1, 2, 4, 8, 16 or 32");
  }

  const std::uint8_t chunked = plan.count > 1 ? kChunkedFlag : 0;
  out->push_back(static_cast<std::uint8_t>(lanes_log2 | chunked));
  std::vector<std::uint8_t> body;
  if (plan.count > 1) append_varint(out, plan.count);
  for (std::size_t chunk = 0; chunk < plan.count; ++chunk) {
    const std::size_t begin = body.size();
    encoder.encode_chunk(chunk * plan.size, plan.symbols_in(chunk, num_symbols), lanes, &body);
    if (chunk + 1 < plan.count) append_varint(out, body.size() - begin);
  }
  out->insert(out->end(), body.begin(), body.end());
  return Status::ok();
}

template Status encode(Span<const std::int32_t>, Span<const std::uint8_t>, const Tables&,
                       const EncodeOptions&, std::vector<std::uint8_t>*);
template Status encode(Span<const std::int32_t>, Span<const std::uint16_t>, const Tables&,
                       const EncodeOptions&, std::vector<std::uint8_t>*);
template Status encode(Span<const std::int32_t>, Span<const std::int32_t>, const Tables&,
                       const EncodeOptions&, std::vector<std::uint8_t>*);

}  // namespace icmh::rans
