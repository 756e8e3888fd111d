// The stream of CompressAI's coder (compressai.ans), read and written byte for byte.
//
// One rANS state of 63 bits, words of 32 bits, probabilities of 16 bits. The stream is the final
// state of the encoder as 64 bits, then the words in the order in which the decoder needs them, all
// little-endian. A value that its row does not hold is coded as the row's last interval, the
// escape, and then in nibbles of equal probability: their number, then the number `raw` that maps
// the distance to the row, least significant nibble first. docs/rans.md, "The CompressAI stream".
//
// Every function here is safe on any data and any arguments, and may run in many threads at once
// as long as no Encoder or Decoder is used by two of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "common/status.h"

namespace icmh::rans::compat {

constexpr unsigned kPrecision = 16;

// One row: `count` values starting at `offset`, then the escape interval (number `count`).
struct Row {
  std::uint32_t first;  // of its count + 2 entries in cdf()
  std::uint32_t count;
  std::int32_t offset;
  // A slot's bucket is buckets()[bucket + (slot >> bucket_shift)], if there are buckets.
  std::uint32_t bucket;
  std::uint32_t bucket_shift;
};

// The interval that holds a bucket's first slot, and where that interval lies.
struct Bucket {
  std::uint32_t frequency;
  std::uint16_t start;
  std::uint16_t interval;
};

class Tables {
 public:
  // The bound that gives buckets to all tables but those with very many rows.
  static constexpr std::size_t kManySymbols = ~std::size_t{0};

  // Row i is the lengths[i] numbers of `cdfs` from starts[i]: 0, not falling, 2^16. Interval k <
  // lengths[i] - 2 is the value offsets[i] + k, the last one is the escape; an interval of no slots
  // cannot be coded. `expected_symbols` says how much decoding the tables will serve: few symbols
  // are not worth the buckets that make a decoder fast.
  static Status build(Span<const std::int32_t> cdfs, Span<const std::int64_t> starts,
                      Span<const std::int32_t> lengths, Span<const std::int32_t> offsets,
                      std::size_t expected_symbols, Tables* tables);

  Span<const Row> rows() const { return {rows_.data(), rows_.size()}; }
  const std::uint32_t* cdf() const { return cdf_.data(); }
  const Bucket* buckets() const { return buckets_.data(); }
  bool has_buckets() const { return !buckets_.empty(); }

 private:
  void build_buckets(std::size_t expected_symbols);

  std::vector<Row> rows_;
  std::vector<std::uint32_t> cdf_;
  std::vector<Bucket> buckets_;
};

// Index is uint8_t, uint16_t or int32_t, Symbol is int8_t, int16_t or int32_t. `indexes` has as
// many entries as `symbols`, each the number of a row.

// Replaces *out by the stream of one plane.
template <typename Symbol, typename Index>
Status encode(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables,
              std::vector<std::uint8_t>* out);

// The stream of several planes: rANS codes backwards, so they are kept (4 bytes a symbol) until
// flush.
class Encoder {
 public:
  // Appends a plane; after an error the encoder is as it was.
  template <typename Symbol, typename Index>
  Status append(Span<const Symbol> symbols, Span<const Index> indexes, const Tables& tables);

  // Replaces *out by the stream of all planes and forgets them.
  void flush(std::vector<std::uint8_t>* out);

 private:
  std::vector<std::uint32_t> operations_;
};

// Decodes planes from the front of a stream.
class Decoder {
 public:
  // `data` must outlive the decoder.
  static Status open(Span<const std::uint8_t> data, Decoder* decoder);

  // Fills `symbols`, one per index; after an error the decoder is as it was.
  template <typename Index>
  Status decode(Span<const Index> indexes, const Tables& tables, Span<std::int32_t> symbols);

  // True if everything that an encoder wrote has been decoded: all bytes are used and the state is
  // the one that encoders start from.
  bool at_end() const;

 private:
  template <bool kBuckets, typename Index>
  Status decode_plane(Span<const Index> indexes, const Tables& tables,
                      Span<std::int32_t> symbols);

  Span<const std::uint8_t> data_;
  std::size_t position_ = 0;
  std::uint64_t state_ = 0;
};

}  // namespace icmh::rans::compat
