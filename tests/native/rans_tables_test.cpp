// What the coder looks up, against plain arithmetic: reciprocals exhaustively, buckets and cells for
// every slot and value of ugly rows.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "rans/format.h"
#include "rans/reciprocal.h"
#include "rans/tables.h"

namespace {

using icmh::Span;
using namespace icmh::rans;

// Every frequency of every precision, at both ends of many quotients and of the whole range.
void reciprocals_divide() {
  for (unsigned precision = kMinPrecision; precision <= kMaxPrecision; ++precision) {
    for (std::uint32_t frequency = 1; frequency < 1u << precision; ++frequency) {
      icmh::tests::current_case() =
          "frequency " + std::to_string(frequency) + " of 2^" + std::to_string(precision);
      const Reciprocal reciprocal = Reciprocal::of(frequency, precision);
      const std::uint64_t end = std::uint64_t{frequency} << (32 - precision);
      const std::uint64_t quotients = std::uint64_t{1} << (32 - precision);
      std::uint64_t step = quotients / 7 + 1;
      for (std::uint64_t quotient = 0; quotient <= quotients; quotient += step) {
        const std::uint64_t at = std::min(quotient, quotients) * frequency;
        for (std::int64_t offset = -2; offset <= 2; ++offset) {
          const std::int64_t x = static_cast<std::int64_t>(at) + offset;
          if (x < 0 || static_cast<std::uint64_t>(x) >= end) continue;
          const auto state = static_cast<std::uint32_t>(x);
          ICMH_CHECK(reciprocal.quotient(state, frequency) == state / frequency,
                     "x is " + std::to_string(state));
        }
      }
      const auto last = static_cast<std::uint32_t>(end - 1);
      ICMH_CHECK(reciprocal.quotient(last, frequency) == last / frequency, "the last x");
    }
  }
}

struct PlainRow {
  std::vector<std::uint32_t> frequencies;
  std::int32_t offset;
};

void lookups_agree(const std::vector<PlainRow>& rows, unsigned precision) {
  std::size_t columns = 0;
  for (const PlainRow& row : rows) columns = std::max(columns, row.frequencies.size() + 1);
  std::vector<std::uint32_t> cdfs(rows.size() * columns, 0);
  std::vector<std::int32_t> lengths, offsets;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::uint32_t sum = 0;
    for (std::size_t k = 0; k < rows[i].frequencies.size(); ++k) {
      sum += rows[i].frequencies[k];
      cdfs[i * columns + k + 1] = sum;
    }
    lengths.push_back(static_cast<std::int32_t>(rows[i].frequencies.size()) + 1);
    offsets.push_back(rows[i].offset);
  }
  Tables tables;
  const icmh::Status status = Tables::build(
      Span<const std::uint32_t>{cdfs.data(), cdfs.size()}, columns,
      Span<const std::int32_t>{lengths.data(), lengths.size()},
      Span<const std::int32_t>{offsets.data(), offsets.size()}, precision, &tables);
  ICMH_CHECK(status.is_ok(), status.message());

  for (std::uint32_t i = 0; i < rows.size(); ++i) {
    icmh::tests::current_case() = "row " + std::to_string(i) + " at 2^" + std::to_string(precision);
    const std::uint32_t count = static_cast<std::uint32_t>(rows[i].frequencies.size()) - 1;
    std::uint32_t number = 0, start = 0;
    for (std::uint32_t slot = 0; slot < 1u << precision; ++slot) {
      if (slot - start >= rows[i].frequencies[number]) {
        start += rows[i].frequencies[number];
        ++number;
      }
      const auto detail = [&] { return "slot " + std::to_string(slot); };
      ICMH_CHECK(tables.interval_of_slot(tables.row(i), slot) == number, detail());
      const DecoderBucket bucket = tables.buckets()[(std::size_t{i} << tables.bucket_bits()) +
                                                    (slot >> tables.bucket_shift())];
      const std::uint32_t divider = std::uint32_t{bucket.start} + bucket.first_frequency;
      const std::uint32_t end = divider + bucket.second_frequency;
      if (slot < bucket.start || slot >= end) continue;
      const bool upper = slot >= divider;
      ICMH_CHECK(number < count, detail());  // an escape is never answered by a bucket
      ICMH_CHECK((upper ? divider : bucket.start) == start, detail());
      ICMH_CHECK((upper ? end : divider) == start + rows[i].frequencies[number], detail());
      ICMH_CHECK(bucket.value + upper == tables.row(i).value_of(number), detail());
    }
    const std::uint32_t last_cell = (1u << tables.cell_bits()) - 1;
    for (std::uint32_t c = 0; c <= last_cell; ++c) {
      const EncoderCell cell = tables.cells()[(std::size_t{i} << tables.cell_bits()) + c];
      const auto detail = [&] { return "cell " + std::to_string(c); };
      const std::int64_t value = std::int64_t{tables.lowest_cell_value()} + c;
      const std::int64_t above = value - rows[i].offset;
      const bool has_interval = c < last_cell && above >= 0 && above < count;
      ICMH_CHECK((cell.frequency != 0) == has_interval, detail());
      if (!has_interval) continue;
      const Interval& interval =
          tables.interval(tables.row(i), static_cast<std::uint32_t>(above));
      ICMH_CHECK(cell.start == interval.start, detail());
      ICMH_CHECK(cell.frequency == interval.frequency_minus_1 + 1, detail());
    }
  }
}

}  // namespace

int main() {
  reciprocals_divide();
  for (unsigned precision = kMinPrecision; precision <= kMaxPrecision; ++precision) {
    const std::uint32_t total = 1u << precision;
    lookups_agree({{{total}, 0}}, precision);
    lookups_agree({{{total - 1, 1}, 0},
                   {{1, total - 1}, -7},
                   {{1, total - 2, 1}, 2147483646},
                   {{1, total - 2, 1}, -2147483647 - 1},
                   {{1, total - 2, 1}, 32766},
                   {{1, total - 2, 1}, -32769},
                   {std::vector<std::uint32_t>(total, 1), -static_cast<std::int32_t>(total / 2)},
                   {{total / 2, total / 2}, 5},
                   {{total / 3, 1, 1, 1, total / 3, total - 2 * (total / 3) - 3}, -2}},
                  precision);
    // So many rows that their buckets and cells are few.
    lookups_agree(std::vector<PlainRow>(3000, {{1, 2, 3, total - 16, 4, 5, 1}, -3}), precision);
  }
  return 0;
}
