// Quantized CDF tables, and what encoder and decoder look up in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "common/status.h"
#include "rans/reciprocal.h"

namespace icmh::rans {

// One row: `count` values starting at `offset`, then the escape interval (number `count`).
struct Row {
  std::uint32_t first_interval;  // where the row starts in intervals()
  std::uint32_t count;
  std::int32_t offset;

  // Number of the interval that codes `symbol`.
  std::uint32_t interval_of(std::int32_t symbol) const {
    const auto above = static_cast<std::uint64_t>(std::int64_t{symbol} - offset);
    return above < count ? static_cast<std::uint32_t>(above) : count;
  }
  std::int32_t value_of(std::uint32_t interval) const {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(offset) + interval);
  }
};

// `frequency` slots of 2^precision from `start`.
struct Interval {
  std::uint16_t start;
  std::uint16_t frequency_minus_1;
};

// All that the encoder needs to know of a (row, value), in one 64-bit load.
struct EncoderCell {
  Reciprocal reciprocal;
  std::uint16_t start;
  std::uint16_t frequency;  // 0: not here, look the row up
};
static_assert(sizeof(EncoderCell) == 8, "vector loops gather it as one 64-bit number");

// All that the decoder needs to know of most slots of a bucket, in one 64-bit load: two neighbouring
// intervals, the first from slot `start` on, of values `value` and `value` + 1. Slots of the bucket
// that lie in neither must be looked up in the row.
struct DecoderBucket {
  std::uint16_t start;
  std::uint16_t first_frequency;
  std::uint16_t second_frequency;
  std::int16_t value;
};
static_assert(sizeof(DecoderBucket) == 8, "vector loops gather it as one 64-bit number");

class Tables {
 public:
  // cdfs is (rows, columns) in C order; row i uses its first lengths[i] entries: 0, strictly
  // rising, 2^precision. Interval k < lengths[i] - 2 is the value offsets[i] + k, the last one is
  // the escape. lengths and offsets have `rows` entries.
  static Status build(Span<const std::uint32_t> cdfs, std::size_t columns,
                      Span<const std::int32_t> lengths, Span<const std::int32_t> offsets,
                      unsigned precision, Tables* tables);

  unsigned precision() const { return precision_; }
  std::uint32_t num_rows() const { return static_cast<std::uint32_t>(rows_.size()); }

  // The tables as they are.
  const Row& row(std::uint32_t number) const { return rows_[number]; }
  const Interval& interval(const Row& row, std::uint32_t number) const {
    return intervals_[row.first_interval + number];
  }
  std::uint32_t interval_of_slot(const Row& row, std::uint32_t slot) const;

  // Both shortcuts have as many rows as this allows, a power of two; those beyond num_rows() are
  // empty. Masked with it, an index is safe to use before it is known to be right.
  std::uint32_t row_mask() const { return row_mask_; }

  // The encoder's shortcut: cell (row << cell_bits()) + c is the value lowest_cell_value() + c of
  // the row, for c < 2^cell_bits() - 1; the last cell of each row is empty.
  const EncoderCell* cells() const { return cells_.data(); }
  unsigned cell_bits() const { return cell_bits_; }
  std::int32_t lowest_cell_value() const { return lowest_cell_value_; }

  // The decoder's shortcut: bucket (row << bucket_bits()) + (slot >> bucket_shift()).
  const DecoderBucket* buckets() const { return buckets_.data(); }
  unsigned bucket_bits() const { return bucket_bits_; }
  unsigned bucket_shift() const { return precision_ - bucket_bits_; }

 private:
  void build_cells(unsigned rows_log2);
  void build_buckets(unsigned rows_log2);

  unsigned precision_ = 0;
  std::uint32_t row_mask_ = 0;
  std::vector<Row> rows_;
  std::vector<Interval> intervals_;
  std::vector<EncoderCell> cells_;
  unsigned cell_bits_ = 0;
  std::int32_t lowest_cell_value_ = 0;
  std::vector<DecoderBucket> buckets_;
  unsigned bucket_bits_ = 0;
};

}  // namespace icmh::rans
