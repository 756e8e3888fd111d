// Quantized CDF tables, and what encoder and decoder look up in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "common/status.h"

namespace icmh::rans {

// One row: `count` values starting at `offset`, then the escape interval (number `count`).
struct Row {
  std::uint32_t first_interval;  // where the row starts in the interval arrays
  std::uint32_t count;
  std::int32_t offset;
};

// Everything the encoder needs for one interval: `frequency` slots of 2^precision from `start`.
struct EncoderInterval {
  // ceil(2^(32 + precision) / frequency); (x * reciprocal) >> (32 + precision) == x / frequency
  // for every x that is encoded. Proof in docs/rans.md, "Encoding without division".
  std::uint64_t reciprocal;
  std::uint16_t start;
  std::uint16_t frequency_minus_1;
  std::uint16_t cost;  // about log2(2^precision / frequency), in 1 / kCostUnitsPerBit bit
};

struct DecoderInterval {
  std::uint16_t start;
  std::uint16_t frequency_minus_1;
};

class Tables {
 public:
  // cdfs is (rows, columns) in C order; row i uses its first lengths[i] entries: 0, strictly
  // rising, 2^precision. Interval k < lengths[i] - 2 is the value offsets[i] + k, the last one is
  // the escape. lengths and offsets have `rows` entries.
  static Status build(Span<const std::uint32_t> cdfs, std::size_t columns,
                      Span<const std::int32_t> lengths, Span<const std::int32_t> offsets,
                      unsigned precision, Tables* tables);

  unsigned precision() const { return precision_; }
  std::size_t num_rows() const { return rows_.size(); }
  const Row* rows() const { return rows_.data(); }
  const EncoderInterval* encoder_intervals() const { return encoder_intervals_.data(); }
  const DecoderInterval* decoder_intervals() const { return decoder_intervals_.data(); }

  // A slot of row r is in interval bucket_first()[(r << bucket_bits()) + (slot >> bucket_shift())]
  // or, where bucket_shift() > 0, in one shortly after it.
  unsigned bucket_bits() const { return bucket_bits_; }
  unsigned bucket_shift() const { return precision_ - bucket_bits_; }
  const std::uint16_t* bucket_first() const { return bucket_first_.data(); }

 private:
  unsigned precision_ = 0;
  unsigned bucket_bits_ = 0;
  std::vector<Row> rows_;
  std::vector<EncoderInterval> encoder_intervals_;
  std::vector<DecoderInterval> decoder_intervals_;
  std::vector<std::uint16_t> bucket_first_;
};

}  // namespace icmh::rans
