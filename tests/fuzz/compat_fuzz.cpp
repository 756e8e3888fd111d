// Fuzzing of the coder for CompressAI's streams: with and without buckets, in one plane or two, it
// gives the same answer, and what was encoded decodes to itself.
//
// An input is 7 bytes of choices, then bytes of the kind that the mode in the first byte needs, as
// in rans_fuzz.cpp.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "fuzz_input.h"
#include "rans/compat.h"
#include "rans_cases.h"

namespace icmh::tests {
namespace {

namespace compat = rans::compat;

struct CompatTables {
  std::vector<std::int32_t> offsets;
  compat::Tables with_buckets;
  compat::Tables without;
};

CompatTables compat_tables_of(const std::vector<std::vector<std::uint32_t>>& rows,
                              const std::vector<std::int32_t>& offsets) {
  std::vector<std::int32_t> cdfs;
  std::vector<std::int64_t> starts;
  std::vector<std::int32_t> lengths;
  for (const auto& row : rows) {
    starts.push_back(static_cast<std::int64_t>(cdfs.size()));
    lengths.push_back(static_cast<std::int32_t>(row.size() + 1));
    cdfs.push_back(0);
    for (const std::uint32_t frequency : row) {
      cdfs.push_back(cdfs.back() + static_cast<std::int32_t>(frequency));
    }
  }
  CompatTables tables;
  tables.offsets = offsets;
  const auto build = [&](std::size_t expected_symbols, compat::Tables* built) {
    const Status status = compat::Tables::build(span_of(cdfs), span_of(starts), span_of(lengths),
                                                span_of(offsets), expected_symbols, built);
    ICMH_CHECK(status.is_ok(), status.message());
  };
  build(compat::Tables::kManySymbols, &tables.with_buckets);
  build(0, &tables.without);
  return tables;
}

const std::vector<CompatTables>& all_tables() {
  static const std::vector<CompatTables> tables{
      compat_tables_of({{65536},
                        {65535, 1},
                        {1, 65535},
                        {1, 65534, 1},
                        {1, 65534, 1},
                        {32768, 32768},
                        {21845, 1, 21845, 1, 21844},
                        std::vector<std::uint32_t>(65536, 1)},
                       {0, 0, -7, static_cast<std::int32_t>(kInt32Max - 1),
                        static_cast<std::int32_t>(kInt32Min), 127, -2, -32768}),
      // Intervals of no slots, at the ends and in the middle.
      compat_tables_of({{0, 65536}, {65536, 0}, {0, 0, 30000, 0, 35536, 0, 0}, {1, 0, 65535}},
                       {0, -1, -3, 5}),
      compat_tables_of({{8000, 16000, 17536, 16000, 7999, 1}}, {-2}),
  };
  return tables;
}

enum class Mode { decode, round_trip, damaged };

struct Choices {
  explicit Choices(Input* input)
      : mode(static_cast<Mode>(input->take(1) % 3)),
        tables(all_tables()[input->take(1) % all_tables().size()]),
        types(input->take(1)),
        count(count_of(input->take(2))),
        index_pattern(input->take(1)),
        index_step(input->take(1)) {}

  Mode mode;
  const CompatTables& tables;
  std::uint32_t types;
  std::size_t count;
  std::uint32_t index_pattern;
  std::uint32_t index_step;
};

struct Decoded {
  bool accepted = false;  // by open() and every decode()
  bool at_end = false;
  std::vector<std::int32_t> symbols;
};

// As one plane, or as two that meet at `split`.
template <typename Index>
Decoded decode(const std::vector<std::uint8_t>& stream, const std::vector<Index>& indexes,
               const compat::Tables& tables, std::size_t split) {
  Decoded decoded;
  decoded.symbols.resize(indexes.size());
  compat::Decoder decoder;
  Status status = compat::Decoder::open(span_of(stream), &decoder);
  std::size_t first = 0;
  for (const std::size_t end : {split, indexes.size()}) {
    if (!status.is_ok()) break;
    status = decoder.decode<Index>({indexes.data() + first, end - first}, tables,
                                   {decoded.symbols.data() + first, end - first});
    first = end;
  }
  ICMH_CHECK(status.kind() != StatusKind::kBadArgument, status.message());
  decoded.accepted = status.is_ok();
  decoded.at_end = decoded.accepted && decoder.at_end();
  return decoded;
}

template <typename Index>
Decoded decode_everywhere(const std::vector<std::uint8_t>& stream,
                          const std::vector<Index>& indexes, const CompatTables& tables) {
  const Decoded expected = decode(stream, indexes, tables.without, indexes.size());
  const auto check = [&](const Decoded& decoded, const char* how) {
    ICMH_CHECK(decoded.accepted == expected.accepted && decoded.at_end == expected.at_end, how);
    ICMH_CHECK(!expected.accepted || decoded.symbols == expected.symbols, how);
  };
  check(decode(stream, indexes, tables.with_buckets, indexes.size()), "with buckets");
  check(decode(stream, indexes, tables.with_buckets, indexes.size() / 3), "in two planes");
  return expected;
}

template <typename Symbol, typename Index>
void run(Input* input, const Choices& choices) {
  const auto indexes = indexes_of<Index>(choices.index_pattern, choices.index_step,
                                         choices.tables.offsets.size(), choices.count);
  if (choices.mode == Mode::decode) {
    decode_everywhere(input->rest(), indexes, choices.tables);
    return;
  }
  const auto symbols = symbols_of<Symbol>(input, choices.tables.offsets, indexes);
  std::vector<std::uint8_t> stream;
  const Status status = compat::encode<Symbol, Index>(span_of(symbols), span_of(indexes),
                                                      choices.tables.with_buckets, &stream);

  // In planes, too, even where a symbol cannot be coded.
  compat::Encoder encoder;
  const std::size_t split = symbols.size() / 3;
  bool accepted = true;
  for (const bool second : {false, true}) {
    const std::size_t first = second ? split : 0;
    const std::size_t end = second ? symbols.size() : split;
    accepted = accepted && encoder
                               .append<Symbol, Index>({symbols.data() + first, end - first},
                                                      {indexes.data() + first, end - first},
                                                      choices.tables.without)
                               .is_ok();
  }
  ICMH_CHECK(accepted == status.is_ok(), "in two planes: " + status.message());
  if (!status.is_ok()) {
    ICMH_CHECK(status.kind() == StatusKind::kBadArgument, status.message());
    return;
  }
  std::vector<std::uint8_t> of_planes;
  encoder.flush(&of_planes);
  ICMH_CHECK(of_planes == stream, "two planes give another stream");

  if (choices.mode == Mode::damaged) {
    damage(input, &stream);
    decode_everywhere(stream, indexes, choices.tables);
    return;
  }
  const Decoded decoded = decode_everywhere(stream, indexes, choices.tables);
  ICMH_CHECK(decoded.accepted && decoded.at_end, "");
  ICMH_CHECK(std::equal(symbols.begin(), symbols.end(), decoded.symbols.begin()), "");
}

}  // namespace
}  // namespace icmh::tests

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace icmh::tests;
  Input input(data, size);
  const Choices choices(&input);
  with_types(choices.types / 3, choices.types % 3, [&](auto symbol, auto index) {
    run<decltype(symbol), decltype(index)>(&input, choices);
  });
  return 0;
}
