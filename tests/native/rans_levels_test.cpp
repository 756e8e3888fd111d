// Every SIMD level against the scalar definition, on random cases: the same bytes from encode(),
// the same symbols from decode(), and of damaged streams the same symbols or an error from each.
// The case numbered i is the same on every machine, so one committed digest of all streams holds
// every level of every architecture to the same bytes.
//
//   rans_levels_test [--cases N] [--first I] [--print-digest]
//
// runs cases I to N - 1 (default 0 to 9999) and compares the digests at the counts listed below.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "common/crc32c.h"
#include "common/simd.h"
#include "random.h"
#include "rans/coder.h"
#include "rans/format.h"
#include "rans_cases.h"

namespace icmh::tests {
namespace {

// CRC-32C of all streams, and of what decoding them and their damaged copies gave, after the first
// `cases` cases. A change of the streams is a change of the format (see CONTRIBUTING.md); then
// `rans_levels_test --print-digest` prints the new lines.
struct Digest {
  unsigned cases;
  std::uint32_t streams;
  std::uint32_t outcomes;
};
constexpr Digest kDigests[] = {
    {300, 0x83DF6243u, 0x2B6D7D30u},
    {10000, 0xE6D7694Au, 0x646C1CF3u},
};

constexpr std::uint64_t kSeed = 0x1C3A5E7D;
constexpr unsigned kCasesPerTables = 10;   // building tables would take most of the time
constexpr unsigned kLargePeriod = 250;     // one case in so many has several chunks by itself
constexpr unsigned kDamagedCopies = 4;

// Continues a CRC over a number, the same on every machine.
std::uint32_t fold(std::uint32_t crc, std::uint64_t number) {
  std::uint8_t bytes[8];
  for (unsigned i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(number >> (8 * i));
  return crc32c(bytes, 8, crc);
}

std::size_t random_count(Random* random, unsigned number) {
  if (number % kLargePeriod == kLargePeriod - 1) return 262144 + random->below(40000);
  switch (random->below(8)) {
    case 0:
      return random->below(4);
    case 1:
    case 2:
    case 3: {  // around multiples of the lane counts
      const std::size_t lanes = random->of(kLaneCounts);
      const std::size_t groups = random->below(9);
      const std::size_t count = lanes * groups + random->below(5);
      return count < 2 ? 0 : count - 2;
    }
    case 4:
      return random->below(20000);
    default:
      return random->below(2000);
  }
}

// What a decoder made of some bytes. Symbols and seal count only if it accepted them.
struct Outcome {
  bool accepted;
  std::uint16_t seal;
  std::uint32_t symbols_crc;

  bool operator==(const Outcome& other) const {
    return accepted == other.accepted && seal == other.seal && symbols_crc == other.symbols_crc;
  }
  std::string text() const {
    return accepted ? "accepted, seal " + std::to_string(seal) + ", symbols' CRC " +
                          std::to_string(symbols_crc)
                    : "refused";
  }
};

template <typename Symbol, typename Index>
Outcome outcome_of(const std::vector<std::uint8_t>& stream, const std::vector<Index>& indexes,
                   const rans::Tables& tables, const rans::DecodeOptions& options) {
  std::vector<Symbol> symbols(indexes.size());
  std::uint16_t seal = 0;
  const Status status = rans::decode<Index, Symbol>(
      span_of(stream), span_of(indexes), tables, options, {symbols.data(), symbols.size()}, &seal);
  if (!status.is_ok()) {
    ICMH_CHECK(status.kind() == StatusKind::kCorrupt, status.message());
    return {false, 0, 0};
  }
  std::uint32_t crc = 0;
  for (const Symbol symbol : symbols) crc = fold(crc, static_cast<std::uint32_t>(symbol));
  return {true, seal, crc};
}

void damage(Random* random, std::vector<std::uint8_t>* stream) {
  // Half the damage goes where the head, the lengths and the states are.
  const std::size_t reach =
      random->one_in(2) ? std::min<std::size_t>(stream->size(), 1 + 4 * 64) : stream->size();
  const std::size_t place = random->below(reach);
  const auto byte = static_cast<std::uint8_t>(random->next());
  switch (random->below(6)) {
    case 0:
      stream->resize(place);
      break;
    case 1:
      stream->insert(stream->begin() + static_cast<std::ptrdiff_t>(place), byte);
      break;
    case 2:
      stream->erase(stream->begin() + static_cast<std::ptrdiff_t>(place));
      break;
    case 3:
      (*stream)[place] = byte;
      break;
    case 4: {
      const std::size_t other = random->below(stream->size());
      std::swap((*stream)[place], (*stream)[other]);
      break;
    }
    default:
      (*stream)[place] = static_cast<std::uint8_t>((*stream)[place] ^ 1u << byte % 8);
  }
}

struct Results {
  std::uint32_t streams_crc = 0;
  std::uint32_t outcomes_crc = 0;
  // What the encoder chose by itself, from the heads of the streams.
  unsigned chosen_lanes[7] = {};
  unsigned chosen_chunks = 0;
};

template <typename Symbol, typename Index>
void run_case(Random* random, const CaseTables& tables, unsigned number,
              Results* results) {
  const std::size_t count = random_count(random, number);
  const std::size_t usable =
      sizeof(Index) == 1 ? std::min<std::size_t>(256, tables.num_rows()) : tables.num_rows();
  const auto rows = random_indexes(random, count, static_cast<std::uint32_t>(usable));
  constexpr std::uint32_t kEscapeRates[] = {0, 0, 1, 16, 256};
  const std::uint32_t escape_rate = random->of(kEscapeRates);
  const auto symbols = random_symbols<Symbol>(random, tables, rows, escape_rate);
  const std::vector<Index> indexes(rows.begin(), rows.end());

  rans::EncodeOptions options;
  const unsigned forced_lanes = random->of(kLaneCounts);
  options.lanes = random->one_in(2) ? 0 : forced_lanes;
  options.chunks = random_chunks(random, count);
  options.seal = static_cast<std::uint16_t>(count == 0 ? 0 : random->next());
  options.threads = 1 + random->below(2);
  rans::DecodeOptions decode_options;
  decode_options.threads = 1 + random->below(2);
  current_case() = "--first " + std::to_string(number) + " --cases " + std::to_string(number + 1) +
                   ": precision " + std::to_string(tables.precision) + ", " +
                   std::to_string(tables.num_rows()) + " rows, " + std::to_string(count) + " " +
                   type_name<Symbol>() + " symbols, " + type_name<Index>() + " indexes, lanes " +
                   std::to_string(options.lanes) + ", chunks " + std::to_string(options.chunks) +
                   ", seal " + std::to_string(options.seal) + ", threads " +
                   std::to_string(options.threads) + " and " +
                   std::to_string(decode_options.threads);

  // Nothing is drawn in loops over the levels: their number differs between machines.
  std::vector<std::uint8_t> stream;  // of the scalar definition, the first level
  for (const SimdLevel level : supported_levels()) {
    options.level = level;
    std::vector<std::uint8_t> bytes(3, 0xAA);  // old content must not matter
    const Status status =
        rans::encode<Symbol, Index>(span_of(symbols), span_of(indexes), tables.built, options,
                                    &bytes);
    ICMH_CHECK(status.is_ok(), simd_level_name(level) + (": " + status.message()));
    if (level == SimdLevel::scalar) stream = bytes;
    const auto different = std::mismatch(bytes.begin(), bytes.end(), stream.begin(), stream.end());
    ICMH_CHECK(bytes == stream,
               std::string(simd_level_name(level)) + " gives " + std::to_string(bytes.size()) +
                   " bytes, scalar " + std::to_string(stream.size()) +
                   "; the first difference is at " +
                   std::to_string(different.first - bytes.begin()));
  }
  results->streams_crc = fold(results->streams_crc, stream.size());
  results->streams_crc = crc32c(stream.data(), stream.size(), results->streams_crc);
  if (count != 0 && options.lanes == 0) ++results->chosen_lanes[stream[0] & rans::kLanesMask];
  if (options.chunks == 0) results->chosen_chunks += (stream[0] & rans::kChunkedFlag) != 0;

  // The bytes do not depend on the types of the arrays.
  const std::vector<std::int32_t> wide_symbols(symbols.begin(), symbols.end());
  const std::vector<std::int32_t> wide_indexes(rows.begin(), rows.end());
  const auto& levels = supported_levels();
  options.level = levels[number % levels.size()];
  std::vector<std::uint8_t> wide_stream;
  const Status wide_status = rans::encode<std::int32_t, std::int32_t>(
      span_of(wide_symbols), span_of(wide_indexes), tables.built, options, &wide_stream);
  ICMH_CHECK(wide_status.is_ok() && wide_stream == stream,
             "int32 arrays give another stream: " + wide_status.message());

  for (const SimdLevel level : levels) {
    decode_options.level = level;
    std::vector<Symbol> decoded(count, Symbol{77});
    std::uint16_t seal = 0;
    const Status status = rans::decode<Index, Symbol>(span_of(stream), span_of(indexes),
                                                      tables.built, decode_options,
                                                      {decoded.data(), count}, &seal);
    ICMH_CHECK(status.is_ok(), simd_level_name(level) + (": " + status.message()));
    const auto different = std::mismatch(decoded.begin(), decoded.end(), symbols.begin());
    ICMH_CHECK(different.first == decoded.end(),
               std::string(simd_level_name(level)) + " decodes symbol " +
                   std::to_string(different.first - decoded.begin()) + " as " +
                   std::to_string(*different.first) + ", not " + std::to_string(*different.second));
    ICMH_CHECK(seal == options.seal,
               std::string(simd_level_name(level)) + " finds seal " + std::to_string(seal));
  }

  // A narrower type takes the stream if it can hold all values.
  const bool all_narrow =
      std::all_of(symbols.begin(), symbols.end(),
                  [](Symbol symbol) { return symbol == static_cast<std::int8_t>(symbol); });
  for (const SimdLevel level : levels) {
    decode_options.level = level;
    const Outcome outcome =
        outcome_of<std::int8_t>(stream, indexes, tables.built, decode_options);
    ICMH_CHECK(outcome.accepted == all_narrow,
               std::string(simd_level_name(level)) + " decodes to int8: " + outcome.text());
  }

  for (unsigned copy = 0; copy < kDamagedCopies; ++copy) {
    auto damaged = stream;
    auto damaged_indexes = indexes;
    switch (random->below(8)) {
      case 0:  // another number of symbols
        damaged_indexes.resize(count + (random->one_in(2) || count == 0 ? 1 : std::size_t(-1)));
        break;
      case 1:  // another row
        if (count != 0) {
          const std::size_t place = random->below(count);
          damaged_indexes[place] = static_cast<Index>(random->below(usable));
        }
        break;
      default:
        damage(random, &damaged);
    }
    // Narrow symbols also meet values that they cannot hold.
    const bool narrow = random->one_in(4);
    Outcome expected{};
    for (const SimdLevel level : levels) {
      decode_options.level = level;
      const Outcome outcome =
          narrow ? outcome_of<std::int8_t>(damaged, damaged_indexes, tables.built, decode_options)
                 : outcome_of<Symbol>(damaged, damaged_indexes, tables.built, decode_options);
      if (level == SimdLevel::scalar) expected = outcome;
      ICMH_CHECK(outcome == expected, "damaged copy " + std::to_string(copy) + " is " +
                                          outcome.text() + " by " + simd_level_name(level) +
                                          " but " + expected.text() + " by scalar");
    }
    results->outcomes_crc = fold(results->outcomes_crc, expected.accepted);
    results->outcomes_crc = fold(results->outcomes_crc, expected.seal);
    results->outcomes_crc = fold(results->outcomes_crc, expected.symbols_crc);
  }
}

int run(unsigned first, unsigned end, bool print_only) {
  std::printf("levels: %s; cases %u to %u\n", level_names().c_str(), first, end - 1);
  Results results;
  CaseTables tables;
  bool right = true;
  for (unsigned number = first; number < end; ++number) {
    if (number == first || number % kCasesPerTables == 0) {
      Random random(kSeed + number / kCasesPerTables);
      tables = random_tables(&random);
    }
    Random random((kSeed << 20) + number);
    const std::uint32_t symbol_type = random.below(3);
    const std::uint32_t index_type = random.below(3);
    with_types(symbol_type, index_type, [&](auto symbol, auto index) {
      run_case<decltype(symbol), decltype(index)>(&random, tables, number, &results);
    });
    if (first != 0) continue;
    for (const Digest& digest : kDigests) {
      if (digest.cases != number + 1) continue;
      std::printf("    {%u, 0x%08Xu, 0x%08Xu},\n", number + 1, results.streams_crc,
                  results.outcomes_crc);
      right &= digest.streams == results.streams_crc && digest.outcomes == results.outcomes_crc;
    }
  }
  std::printf("chosen by the encoder: lanes 1 to 64");
  for (const unsigned times : results.chosen_lanes) std::printf(" %u", times);
  std::printf(" times, several chunks %u times\n", results.chosen_chunks);
  if (first == 0 && end >= 10000) {
    ICMH_CHECK(results.chosen_chunks != 0, "no case has several chunks by itself");
    for (const unsigned times : results.chosen_lanes) ICMH_CHECK(times != 0, "see the line above");
  }
  if (print_only) return 0;
  if (!right) {
    std::fprintf(stderr, "rans_levels_test: these digests are not the committed ones: the streams "
                         "(first number) or what decoders accept (second) changed\n");
    return 1;
  }
  std::printf("rans_levels_test: ok\n");
  return 0;
}

}  // namespace
}  // namespace icmh::tests

int main(int argc, char** argv) {
  unsigned first = 0;
  unsigned end = 10000;
  bool print_only = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--print-digest") == 0) {
      print_only = true;
    } else if (std::strcmp(argv[i], "--cases") == 0 && i + 1 < argc) {
      end = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else if (std::strcmp(argv[i], "--first") == 0 && i + 1 < argc) {
      first = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else {
      std::fprintf(stderr, "usage: rans_levels_test [--cases N] [--first I] [--print-digest]\n");
      return 2;
    }
  }
  return icmh::tests::run(first, end, print_only);
}
