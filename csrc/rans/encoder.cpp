#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "common/thread_pool.h"
#include "rans/bits.h"
#include "rans/coder.h"
#include "rans/format.h"
#include "rans/lanes.h"
#include "rans/layout.h"

namespace icmh::rans {
namespace {

// log2(2^precision / frequency) in 1 / kCostUnitsPerBit bit, linear between powers of two: at most
// 0.09 bit too much, and the same integer on every machine.
std::uint64_t integer_cost(std::uint32_t frequency, unsigned precision) {
  const unsigned log2_floor = bit_length(frequency) - 1;
  const std::uint64_t fraction =
      (frequency - (std::uint64_t{1} << log2_floor)) * kCostUnitsPerBit >> log2_floor;
  return (precision - log2_floor) * kCostUnitsPerBit - fraction;
}

// The words and escapes of the plane in bytes, from some of its symbols: good enough to choose lanes
// and chunks by.
template <typename Symbol, typename Index>
std::uint64_t estimate_payload(Span<const Symbol> symbols, Span<const Index> indexes,
                               const Tables& tables) {
  // Odd, so that it does not keep step with channels or rows of images.
  const std::size_t stride = symbols.size / kEstimateSymbols | 1;
  std::uint64_t units = 0;
  std::uint64_t escape_bits = 0;
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < symbols.size; i += stride, ++count) {
    const Row& row = tables.row(
        clamp_row(static_cast<std::uint32_t>(indexes[i]), tables.num_rows() - 1));
    const std::uint32_t number = row.interval_of(symbols[i]);
    const Interval& interval = tables.interval(row, number);
    units += integer_cost(interval.frequency_minus_1 + 1u, tables.precision());
    if (number == row.count) {
      escape_bits += Escape::of(symbols[i], row.offset, row.count).num_bits();
    }
  }
  // At most 2^13 symbols of 82 bits: no overflow below 2^44 symbols.
  return (units / kCostUnitsPerBit + escape_bits) * symbols.size / count / 8;
}

// One chunk, from encoding to the bytes of it.
template <typename Symbol, typename Index>
class ChunkEncoder {
 public:
  ChunkEncoder(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables)
      : num_symbols_(symbols.size) {
    run_.tables = &tables;
    run_.indexes = indexes.data;
    run_.symbols = symbols.data;
  }

  void encode(unsigned lanes, std::uint16_t seal, SimdLevel level) {
    // One word per symbol at most. Not initialised: most of it is never touched.
    const std::size_t capacity = num_symbols_ + kWordSlack;
    buffer_.reset(new std::uint16_t[capacity]);
    words_end_ = buffer_.get() + capacity;
    words_ = words_end_;

    alignas(64) std::uint32_t states[kMaxLanes];
    const std::size_t tail = encode_tail(lanes, seal, states);
    std::size_t i = num_symbols_ - tail;
    while (i % lanes != 0) {
      --i;
      run_.push(i, &states[i % lanes], &words_);
    }
    encode_groups_of<Index, Symbol>(level, lanes)(&run_, i, states, &words_);

    if (lanes > 1) append_varint(&head_, tail);
    BitWriter head_bits(&head_);
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const unsigned length = bit_length(states[lane] >> kWordBits) - 1;
      head_bits.put(length, kStateLengthBits);
      head_bits.put(states[lane], kWordBits + length);
    }
    BitWriter escape_bits(&escape_bytes_);
    for (auto escape = run_.escapes.rbegin(); escape != run_.escapes.rend(); ++escape) {
      escape->write(&escape_bits);
    }
  }

  std::uint32_t highest_index() const { return run_.highest_index; }

  std::size_t num_bytes() const {
    return head_.size() + 2 * static_cast<std::size_t>(words_end_ - words_) +
           escape_bytes_.size();
  }

  void append_to(std::vector<std::uint8_t>* out) const {
    out->insert(out->end(), head_.begin(), head_.end());
    const std::size_t at = out->size();
    const auto num_words = static_cast<std::size_t>(words_end_ - words_);
    out->resize(at + 2 * num_words);
    store_words(out->data() + at, num_words);
    out->insert(out->end(), escape_bytes_.begin(), escape_bytes_.end());
  }

 private:
  // Codes the last symbols in lane 0 alone until its words fill the initial states of the other
  // lanes, whose low 16 bits would otherwise carry nothing. Sets all initial states, returns the
  // number of symbols.
  std::size_t encode_tail(unsigned lanes, std::uint16_t seal, std::uint32_t* states) {
    std::uint16_t buffer[kMaxLanes + 1];
    std::uint16_t* const end = buffer + kMaxLanes + 1;
    std::uint16_t* words = end;
    std::uint32_t state = kStateLow | seal;
    std::size_t tail = 0;
    const std::size_t most = std::min(num_symbols_, kMaxTailSymbolsPerLane * lanes);
    while (tail < most && end - words < static_cast<std::ptrdiff_t>(lanes - 1)) {
      ++tail;
      run_.push(num_symbols_ - tail, &state, &words);
    }
    states[0] = state;
    for (unsigned lane = 1; lane < lanes; ++lane) {
      states[lane] = kStateLow | (words != end ? *words++ : 0u);
    }
    return tail;
  }

  void store_words(std::uint8_t* out, std::size_t num_words) const {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (num_words != 0) std::memcpy(out, words_, 2 * num_words);
#else
    for (std::size_t i = 0; i < num_words; ++i) {
      out[2 * i] = static_cast<std::uint8_t>(words_[i]);
      out[2 * i + 1] = static_cast<std::uint8_t>(words_[i] >> 8);
    }
#endif
  }

  std::size_t num_symbols_;
  EncodeRun<Index, Symbol> run_;
  std::unique_ptr<std::uint16_t[]> buffer_;
  std::uint16_t* words_ = nullptr;      // the first word ...
  std::uint16_t* words_end_ = nullptr;  // ... and the end of the last
  std::vector<std::uint8_t> head_;      // tail length and states
  std::vector<std::uint8_t> escape_bytes_;
};

template <typename Symbol, typename Index>
Status encode_as(const Layout& layout, Span<const Symbol> symbols, Span<const Index> indexes,
                 const Tables& tables, const EncodeOptions& options,
                 std::vector<std::uint8_t>* out) {
  const auto plan = ChunkPlan::of(symbols.size, layout.chunks);
  std::vector<ChunkEncoder<Symbol, Index>> chunks;
  chunks.reserve(plan.count);
  for (std::size_t i = 0; i < plan.count; ++i) {
    const std::size_t first = plan.first_symbol(i);
    const std::size_t count = plan.symbols_in(i, symbols.size);
    chunks.emplace_back(symbols.subspan(first, count), indexes.subspan(first, count), tables);
  }
  parallel_for(plan.count, options.threads, [&](std::size_t i) {
    chunks[i].encode(layout.lanes, options.seal, options.level);
  });

  std::uint32_t highest_index = 0;
  std::size_t num_bytes = 0;
  for (const auto& chunk : chunks) {
    highest_index = std::max(highest_index, chunk.highest_index());
    num_bytes += chunk.num_bytes();
  }
  if (highest_index >= tables.num_rows()) return bad_index(tables.num_rows());

  out->clear();
  out->reserve(num_bytes + 5 * plan.count + 6);
  const std::uint8_t chunked = plan.count > 1 ? kChunkedFlag : 0;
  out->push_back(static_cast<std::uint8_t>((bit_length(layout.lanes) - 1) | chunked));
  if (plan.count > 1) append_varint(out, plan.count);
  for (std::size_t i = 0; i + 1 < plan.count; ++i) append_varint(out, chunks[i].num_bytes());
  for (const auto& chunk : chunks) chunk.append_to(out);
  return Status::ok();
}

}  // namespace

template <typename Symbol, typename Index>
Status encode(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables,
              const EncodeOptions& options, std::vector<std::uint8_t>* out) {
  const std::size_t num_symbols = symbols.size;
  if (indexes.size != num_symbols) {
    return Status::bad_argument("there are " + std::to_string(num_symbols) + " symbols but " +
                                std::to_string(indexes.size) + " indexes");
  }
  if ((options.lanes & (options.lanes - 1)) != 0 || options.lanes > kMaxLanes) {
    return Status::bad_argument(std::to_string(options.lanes) +
                                " lanes; choose a power of two up to " +
                                std::to_string(kMaxLanes));
  }
  if (num_symbols == 0) {
    if (options.seal != 0) return Status::bad_argument("a stream of 0 symbols carries no seal");
    out->assign(1, 0);
    return Status::ok();
  }

  const bool chooses = options.chunks == 0 || options.lanes == 0;
  Layout layout{options.chunks, options.lanes};
  const auto choose = [&](std::uint64_t payload_bytes) {
    const Layout choice = Layout::of(payload_bytes, num_symbols);
    if (options.chunks == 0) layout.chunks = choice.chunks;
    if (options.lanes == 0) layout.lanes = Layout::lanes_for(payload_bytes / layout.chunks);
  };
  if (chooses) choose(estimate_payload(symbols, indexes, tables));
  if (!ChunkPlan::of(num_symbols, layout.chunks).is_valid(num_symbols)) {
    return Status::bad_argument(std::to_string(num_symbols) + " symbols do not split into " +
                                std::to_string(layout.chunks) + " chunks");
  }
  Status status = encode_as(layout, symbols, indexes, tables, options, out);
  if (!status.is_ok() || !chooses) return status;

  // The estimate may have met all the costly symbols of a plane and few of the cheap ones.
  const std::uint64_t chosen_lanes = layout.chunks * layout.lanes;
  const std::uint64_t lane_bytes = std::min<std::uint64_t>(out->size(), 4 * chosen_lanes);
  choose(out->size() - lane_bytes);
  if (kTooManyLanes * layout.chunks * layout.lanes > chosen_lanes) return status;
  return encode_as(layout, symbols, indexes, tables, options, out);
}

#define ICMH_INSTANTIATE(Index, Symbol)                                               \
  template Status encode(Span<const Symbol>, Span<const Index>, const Tables&,        \
                         const EncodeOptions&, std::vector<std::uint8_t>*);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)
#undef ICMH_INSTANTIATE

}  // namespace icmh::rans
