#include "rans/tables.h"

#include <algorithm>
#include <limits>
#include <string>

#include "rans/bits.h"
#include "rans/format.h"

namespace icmh::rans {
namespace {

// Buckets are small enough to stay in a core's second-level cache, and fine enough that few symbols
// lie outside the two intervals of theirs: 2^9 a row for 64 rows, 256 KiB.
constexpr unsigned kMaxBucketsLog2 = 15;
constexpr unsigned kMinBucketBits = 4;
constexpr unsigned kMaxBucketBits = 10;
// Cells cover the values of all rows if that takes at most this many, 1 MiB; otherwise values near
// 0, the others are looked up in their rows.
constexpr unsigned kMaxCellsLog2 = 17;
constexpr unsigned kMinCellBits = 4;

Status check_row(std::size_t row, const std::uint32_t* cdf, std::int64_t length,
                 std::size_t columns, std::int64_t offset, unsigned precision) {
  const std::string name = "row " + std::to_string(row);
  if (length < 2 || static_cast<std::uint64_t>(length) > columns) {
    return Status::bad_argument(name + " has length " + std::to_string(length) +
                                "; it must be 2 to " + std::to_string(columns));
  }
  if (cdf[0] != 0 || cdf[length - 1] != (1u << precision)) {
    return Status::bad_argument(name + " runs from " + std::to_string(cdf[0]) + " to " +
                                std::to_string(cdf[length - 1]) + "; it must run from 0 to 2**" +
                                std::to_string(precision));
  }
  for (std::int64_t i = 1; i < length; ++i) {
    if (cdf[i] <= cdf[i - 1]) {
      return Status::bad_argument(name + " does not rise at entry " + std::to_string(i) +
                                  "; every interval needs at least one slot");
    }
  }
  if (offset + (length - 3) > std::numeric_limits<std::int32_t>::max()) {
    return Status::bad_argument(name + " has values above 2**31 - 1; lower its offset " +
                                std::to_string(offset));
  }
  return Status::ok();
}

}  // namespace

Status Tables::build(Span<const std::uint32_t> cdfs, std::size_t columns,
                     Span<const std::int32_t> lengths, Span<const std::int32_t> offsets,
                     unsigned precision, Tables* tables) {
  const std::size_t num_rows = lengths.size;
  if (precision < kMinPrecision || precision > kMaxPrecision) {
    return Status::bad_argument("precision " + std::to_string(precision) +
                                " is not in 12 to 16 bits");
  }
  if (num_rows == 0 || num_rows > (1u << 16)) {
    return Status::bad_argument("there are " + std::to_string(num_rows) +
                                " rows; tables have 1 to 65536");
  }
  if (offsets.size != num_rows || cdfs.size != num_rows * columns) {
    return Status::bad_argument("cdfs, lengths and offsets differ in their number of rows");
  }

  Tables result;
  result.precision_ = precision;
  result.rows_.reserve(num_rows);
  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::uint32_t* cdf = cdfs.data + row * columns;
    Status status = check_row(row, cdf, lengths[row], columns, offsets[row], precision);
    if (!status.is_ok()) return status;
    const auto num_intervals = static_cast<std::uint32_t>(lengths[row] - 1);
    result.rows_.push_back({static_cast<std::uint32_t>(result.intervals_.size()),
                            num_intervals - 1, offsets[row]});
    for (std::uint32_t i = 0; i < num_intervals; ++i) {
      result.intervals_.push_back({static_cast<std::uint16_t>(cdf[i]),
                                   static_cast<std::uint16_t>(cdf[i + 1] - cdf[i] - 1)});
    }
  }
  const unsigned rows_log2 = bit_length(num_rows - 1);
  result.row_mask_ = (1u << rows_log2) - 1;
  result.build_cells(rows_log2);
  result.build_buckets(rows_log2);
  *tables = std::move(result);
  return Status::ok();
}

std::uint32_t Tables::interval_of_slot(const Row& row, std::uint32_t slot) const {
  const Interval* const first = intervals_.data() + row.first_interval;
  const Interval* const end = first + row.count + 1;
  // The first interval starts at slot 0, so one before the upper bound exists.
  const Interval* const after =
      std::upper_bound(first, end, slot, [](std::uint32_t value, const Interval& interval) {
        return value < interval.start;
      });
  return static_cast<std::uint32_t>(after - first) - 1;
}

void Tables::build_cells(unsigned rows_log2) {
  std::int64_t lowest = std::numeric_limits<std::int32_t>::max();
  std::int64_t highest = std::numeric_limits<std::int32_t>::min();
  for (const Row& row : rows_) {
    lowest = std::min<std::int64_t>(lowest, row.offset);
    highest = std::max<std::int64_t>(highest, std::int64_t{row.offset} + row.count - 1);
  }
  const unsigned most = rows_log2 + kMinCellBits < kMaxCellsLog2 ? kMaxCellsLog2 - rows_log2
                                                                 : kMinCellBits;
  const std::int64_t range = highest - lowest + 1;  // 0 if no row has a value
  cell_bits_ = std::max(kMinCellBits, bit_length(static_cast<std::uint64_t>(range)));
  if (cell_bits_ > most) {
    cell_bits_ = most;
    lowest = std::max(lowest, -(std::int64_t{1} << (most - 1)));
  }
  lowest_cell_value_ = static_cast<std::int32_t>(lowest);

  const std::int64_t window = (std::int64_t{1} << cell_bits_) - 1;
  cells_.assign(std::size_t{1} << (rows_log2 + cell_bits_), {{0}, 0, 0});
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    for (std::uint32_t k = 0; k < row.count; ++k) {
      const std::int64_t cell = std::int64_t{row.offset} + k - lowest;
      if (cell < 0 || cell >= window) continue;
      const Interval& found = interval(row, k);
      cells_[(i << cell_bits_) + static_cast<std::size_t>(cell)] = {
          Reciprocal::of(found.frequency_minus_1 + 1u, precision_), found.start,
          static_cast<std::uint16_t>(found.frequency_minus_1 + 1)};
    }
  }
}

void Tables::build_buckets(unsigned rows_log2) {
  bucket_bits_ = rows_log2 + kMinBucketBits < kMaxBucketsLog2 ? kMaxBucketsLog2 - rows_log2
                                                              : kMinBucketBits;
  bucket_bits_ = std::min(bucket_bits_, kMaxBucketBits);
  // What no slot fits: the row is looked up.
  buckets_.assign(std::size_t{1} << (rows_log2 + bucket_bits_), {0, 0, 0, 0});
  const auto start_of = [this](const Row& row, std::uint32_t k) -> std::uint32_t {
    return interval(row, k).start;
  };
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    const Row& row = rows_[i];
    for (std::uint32_t bucket = 0; bucket < 1u << bucket_bits_; ++bucket) {
      const std::uint32_t first_slot = bucket << bucket_shift();
      const std::uint32_t end_slot = first_slot + (1u << bucket_shift());
      // Intervals k and k + 1 cover most of the bucket. The escape, number `count`, is never among
      // them; where k + 1 is the escape, the second frequency is 0.
      std::uint32_t most = 0;
      std::uint32_t k = interval_of_slot(row, first_slot);
      if (k > 0) --k;
      for (; k < row.count && start_of(row, k) < end_slot; ++k) {
        const std::uint32_t end = start_of(row, std::min(k + 2, row.count));
        const std::uint32_t from = std::max(start_of(row, k), first_slot);
        const std::uint32_t covered = end > from ? std::min(end, end_slot) - from : 0;
        const std::int64_t value = std::int64_t{row.offset} + k;
        if (covered <= most || value < std::numeric_limits<std::int16_t>::min() ||
            value >= std::numeric_limits<std::int16_t>::max()) {
          continue;
        }
        most = covered;
        const std::uint32_t divider = start_of(row, k + 1);
        buckets_[(i << bucket_bits_) + bucket] = {
            interval(row, k).start, static_cast<std::uint16_t>(divider - start_of(row, k)),
            static_cast<std::uint16_t>(end - divider), static_cast<std::int16_t>(value)};
      }
    }
  }
}

}  // namespace icmh::rans
