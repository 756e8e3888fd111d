// Ugly tables, symbols and options for the tests of the rANS coder. Every statement draws at most
// once: C++ leaves the order of two draws in one expression to the compiler.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "common/simd.h"
#include "common/span.h"
#include "common/status.h"
#include "random.h"
#include "rans/coder.h"
#include "rans/tables.h"

namespace icmh::tests {

constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();
constexpr unsigned kLaneCounts[] = {1, 2, 4, 8, 16, 32, 64};

// Tables as their owner has them, kept beside the built ones so that symbols can be drawn.
struct CaseTables {
  unsigned precision = 0;
  std::size_t columns = 0;
  std::vector<std::uint32_t> cdfs;
  std::vector<std::int32_t> lengths;
  std::vector<std::int32_t> offsets;
  rans::Tables built;

  std::size_t num_rows() const { return lengths.size(); }
};

// Row i has exactly these frequencies (the last is the escape) and this offset.
inline CaseTables tables_of(const std::vector<std::vector<std::uint32_t>>& rows,
                            const std::vector<std::int32_t>& offsets, unsigned precision) {
  CaseTables tables;
  tables.precision = precision;
  for (const auto& row : rows) {
    tables.columns = row.size() + 1 > tables.columns ? row.size() + 1 : tables.columns;
  }
  tables.cdfs.assign(rows.size() * tables.columns, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::uint32_t* const cdf = tables.cdfs.data() + i * tables.columns;
    for (std::size_t k = 0; k < rows[i].size(); ++k) cdf[k + 1] = cdf[k] + rows[i][k];
    tables.lengths.push_back(static_cast<std::int32_t>(rows[i].size() + 1));
  }
  tables.offsets = offsets;
  const Status status = rans::Tables::build(
      {tables.cdfs.data(), tables.cdfs.size()}, tables.columns,
      {tables.lengths.data(), tables.lengths.size()},
      {tables.offsets.data(), tables.offsets.size()}, precision, &tables.built);
  ICMH_CHECK(status.is_ok(), status.message());
  return tables;
}

// Frequencies of sum `total`, each at least 1, in at most `widest` intervals (2 <= widest).
inline std::vector<std::uint32_t> random_frequencies(Random* random, std::uint32_t total,
                                                     std::uint32_t widest) {
  const std::uint32_t most = widest < total ? widest : total;
  const std::uint32_t count = 2 + random->below(most - 1);
  std::vector<std::uint32_t> row(count, 1);
  switch (random->below(9)) {
    case 0:  // nothing but an escape
      return {total};
    case 1:  // one near-certain interval
      return random->one_in(2) ? std::vector<std::uint32_t>{1, total - 1}
                               : std::vector<std::uint32_t>{total - 1, 1};
    case 2:  // every slot an interval of its own, or the escape takes the rest
      row.assign(most, 1);
      row.back() += total - most;
      return row;
    case 3:  // one-slot intervals around one that takes the rest
      row[random->below(count)] += total - count;
      return row;
    case 4:  // flat
      for (std::uint32_t k = 0; k < count; ++k) row[k] = total / count + (k < total % count);
      return row;
    case 5: {  // random weights
      std::uint64_t sum = 0;
      std::vector<std::uint32_t> weights(count);
      for (auto& weight : weights) sum += weight = 1 + random->below(1u << random->below(12));
      std::uint32_t left = total - count;
      for (std::uint32_t k = 0; k < count; ++k) {
        const std::uint64_t scaled = std::uint64_t{weights[k]} * (total - count);
        const auto share = static_cast<std::uint32_t>(scaled / sum);
        row[k] += share;
        left -= share;
      }
      row[random->below(count)] += left;
      return row;
    }
    default: {  // peaked: a share of what is left for each interval, outwards from the middle
      const std::uint32_t share = 1 + random->below(240);
      std::uint32_t left = total - count;
      const std::uint32_t middle = (count - 1) / 2;
      for (std::uint32_t step = 0; step < count; ++step) {
        const std::uint32_t distance = (step + 1) / 2;
        const std::uint32_t k = step % 2 == 0 ? middle - distance : middle + distance;
        const auto part = static_cast<std::uint32_t>(std::uint64_t{left} * share / 256);
        // The middle interval of an even count leaves one step at the end for the escape.
        row[k < count ? k : count - 1] += part;
        left -= part;
      }
      row[middle] += left;
      return row;
    }
  }
}

// An offset for a row of `count` values: mostly centred, sometimes at the edge of a symbol type.
inline std::int32_t random_offset(Random* random, std::int64_t count) {
  constexpr std::int64_t kEdges[] = {-128, 127, -32768, 32767, 0};
  const std::int64_t last = count == 0 ? kInt32Max : kInt32Max - count + 1;
  std::int64_t offset = -count / 2;
  switch (random->below(10)) {
    case 0:
      offset = random->between(-100, 100);
      break;
    case 1:
      offset = kInt32Min + random->below(3);
      break;
    case 2:
      offset = last - random->below(3);
      break;
    case 3:
      offset = random->of(kEdges);
      offset -= random->between(-1, count + 1);
      break;
    case 4:
      offset = random->between(kInt32Min, last - 1);
      break;
    default:
      break;
  }
  return static_cast<std::int32_t>(offset < last ? offset : last);
}

inline CaseTables random_tables(Random* random) {
  constexpr std::uint32_t kWidths[] = {2, 3, 4, 9, 20, 40, 100, 300, 600};
  const auto precision = static_cast<unsigned>(12 + random->below(5));
  const std::uint32_t total = 1u << precision;
  std::uint32_t num_rows = 1;
  switch (random->below(10)) {
    case 0:
    case 1:
      break;
    case 2:
      num_rows = 1 + random->below(300);
      break;
    case 3:
    case 4:
      num_rows = 1 + random->below(64);
      break;
    default:
      num_rows = 1 + random->below(8);
  }
  const bool huge = num_rows <= 4 && random->one_in(4);
  std::vector<std::vector<std::uint32_t>> rows;
  std::vector<std::int32_t> offsets;
  for (std::uint32_t i = 0; i < num_rows; ++i) {
    rows.push_back(random_frequencies(random, total, huge ? total : random->of(kWidths)));
    offsets.push_back(random_offset(random, static_cast<std::int64_t>(rows.back().size()) - 1));
  }
  return tables_of(rows, offsets, precision);
}

// A value for a row: by its frequencies, or, `escapes_per_256` times in 256, somewhere outside.
inline std::int64_t random_symbol(Random* random, const CaseTables& tables, std::size_t row,
                                  std::uint32_t escapes_per_256) {
  constexpr std::int64_t kEdges[] = {kInt32Min, kInt32Min + 1, kInt32Max, kInt32Max - 1, 0, -1,
                                     127,       -128,          32767,     -32768,        65536};
  const std::uint32_t* const cdf = tables.cdfs.data() + row * tables.columns;
  const std::int64_t count = tables.lengths[row] - 2;
  const std::int64_t offset = tables.offsets[row];
  if (random->below(256) >= escapes_per_256) {
    const std::uint32_t slot = random->below(std::uint64_t{1} << tables.precision);
    std::int64_t low = 0;  // cdf[low] <= slot < cdf[high]
    std::int64_t high = count + 1;
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      (cdf[middle] <= slot ? low : high) = middle;
    }
    if (low < count) return offset + low;
  }
  std::int64_t value = 0;
  switch (random->below(4)) {
    case 0:
      value = random->of(kEdges);
      break;
    case 1: {  // any distance, each length in bits as likely as the others
      const std::uint32_t bits = random->below(33);
      const std::int64_t distance = random->between(0, (std::int64_t{1} << bits) - 1);
      value = random->one_in(2) ? offset + count + distance : offset - 1 - distance;
      break;
    }
    default:
      value = random->one_in(2) ? offset + count + random->below(20)
                                : offset - 1 - std::int64_t{random->below(20)};
  }
  return value < kInt32Min ? kInt32Min : value > kInt32Max ? kInt32Max : value;
}

// Rows for `count` symbols, below `num_rows`: constant, random, in runs, cyclic or wandering.
inline std::vector<std::uint32_t> random_indexes(Random* random, std::size_t count,
                                                 std::uint32_t num_rows) {
  std::vector<std::uint32_t> indexes(count);
  const std::uint32_t pattern = random->below(5);
  std::uint32_t row = random->below(num_rows);
  std::uint32_t left = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (pattern == 1) row = random->below(num_rows);
    if (pattern == 2 && left-- == 0) {
      row = random->below(num_rows);
      left = random->below(200);
    }
    if (pattern == 3) row = static_cast<std::uint32_t>(i % num_rows);
    if (pattern == 4) row = (row + num_rows + random->below(3) - 1) % num_rows;
    indexes[i] = row;
  }
  return indexes;
}

template <typename Symbol>
std::vector<Symbol> random_symbols(Random* random, const CaseTables& tables,
                                   const std::vector<std::uint32_t>& indexes,
                                   std::uint32_t escapes_per_256) {
  std::vector<Symbol> symbols(indexes.size());
  for (std::size_t i = 0; i < indexes.size(); ++i) {
    symbols[i] =
        static_cast<Symbol>(random_symbol(random, tables, indexes[i], escapes_per_256));
  }
  return symbols;
}

// A number of chunks that `count` symbols can be split into, mostly a small one; half the time 0,
// which lets the encoder choose.
inline std::size_t random_chunks(Random* random, std::size_t count) {
  if (count == 0 || random->one_in(2)) return 0;
  for (;;) {
    const std::size_t most = random->one_in(8) || count < 9 ? count : 9;
    const std::size_t chunks = 1 + random->below(most);
    const std::size_t chunk_size = (count + chunks - 1) / chunks;
    if ((chunks - 1) * chunk_size < count) return chunks;  // else the last one would be empty
  }
}

inline const std::vector<SimdLevel>& supported_levels() {
  static const std::vector<SimdLevel> all = [] {
    std::vector<SimdLevel> levels;
    for (const SimdLevel level : kSimdLevels) {
      if (simd_level_supported(level)) levels.push_back(level);
    }
    return levels;
  }();
  return all;
}

inline std::string level_names() {
  std::string names;
  for (const SimdLevel level : supported_levels()) {
    names += (names.empty() ? "" : ", ") + std::string(simd_level_name(level));
  }
  return names;
}

template <typename T>
Span<const T> span_of(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

template <typename T>
std::string type_name() {
  return (std::is_signed<T>::value ? "int" : "uint") + std::to_string(8 * sizeof(T));
}

// Calls work(Symbol{}, Index{}) with the chosen pair of the types that the coder takes.
template <typename Work>
void with_types(unsigned symbol_type, unsigned index_type, const Work& work) {
  const auto with_symbol = [&](auto symbol) {
    switch (index_type % 3) {
      case 0:
        return work(symbol, std::uint8_t{});
      case 1:
        return work(symbol, std::uint16_t{});
      default:
        return work(symbol, std::int32_t{});
    }
  };
  switch (symbol_type % 3) {
    case 0:
      return with_symbol(std::int8_t{});
    case 1:
      return with_symbol(std::int16_t{});
    default:
      return with_symbol(std::int32_t{});
  }
}

}  // namespace icmh::tests
