#include "rans/tables.h"

#include <limits>
#include <string>

#include "rans/format.h"

namespace icmh::rans {
namespace {

// 4096 buckets of 2 bytes per row: exact at 12 bits, and at 16 bits still about one step away,
// where a full table of 2^16 slots per row would not fit any cache.
constexpr unsigned kMaxBucketBits = 12;

// Linear between powers of two: at most 0.09 bit too much, and the same integer on every machine.
std::uint16_t integer_cost(std::uint32_t frequency, unsigned precision) {
  unsigned log2_floor = 0;
  while ((frequency >> log2_floor) > 1) ++log2_floor;
  const std::uint32_t fraction =
      ((frequency - (1u << log2_floor)) * std::uint64_t{kCostUnitsPerBit}) >> log2_floor;
  return static_cast<std::uint16_t>((precision - log2_floor) * kCostUnitsPerBit - fraction);
}

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
  result.bucket_bits_ = precision < kMaxBucketBits ? precision : kMaxBucketBits;
  const std::size_t num_buckets = std::size_t{1} << result.bucket_bits_;
  result.rows_.reserve(num_rows);
  result.bucket_first_.resize(num_rows * num_buckets);

  for (std::size_t row = 0; row < num_rows; ++row) {
    const std::uint32_t* cdf = cdfs.data + row * columns;
    Status status = check_row(row, cdf, lengths[row], columns, offsets[row], precision);
    if (!status.is_ok()) return status;

    const auto num_intervals = static_cast<std::uint32_t>(lengths[row] - 1);
    result.rows_.push_back({static_cast<std::uint32_t>(result.decoder_intervals_.size()),
                            num_intervals - 1, offsets[row]});
    for (std::uint32_t i = 0; i < num_intervals; ++i) {
      const std::uint32_t frequency = cdf[i + 1] - cdf[i];
      const auto start = static_cast<std::uint16_t>(cdf[i]);
      const auto frequency_minus_1 = static_cast<std::uint16_t>(frequency - 1);
      const std::uint64_t one = std::uint64_t{1} << (32 + precision);
      result.encoder_intervals_.push_back({(one + frequency - 1) / frequency, start,
                                           frequency_minus_1, integer_cost(frequency, precision)});
      result.decoder_intervals_.push_back({start, frequency_minus_1});
    }
    std::uint32_t interval = 0;
    for (std::size_t bucket = 0; bucket < num_buckets; ++bucket) {
      const std::size_t slot = bucket << result.bucket_shift();
      while (cdf[interval + 1] <= slot) ++interval;
      result.bucket_first_[row * num_buckets + bucket] = static_cast<std::uint16_t>(interval);
    }
  }
  *tables = std::move(result);
  return Status::ok();
}

}  // namespace icmh::rans
