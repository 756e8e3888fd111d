// Fuzzing of the rANS coder: whatever the input, every SIMD level gives the same answer, what was
// encoded decodes to itself, what is cut off of that tells nothing else, and (with sanitizers)
// nothing outside the arrays is touched.
//
// An input is 12 bytes of choices, then bytes of the kind that the mode in the first byte needs: a
// stream to decode, symbols to encode, or symbols and then changes to their stream.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "common/simd.h"
#include "fuzz_input.h"
#include "random.h"
#include "rans/coder.h"
#include "rans_cases.h"

namespace icmh::tests {
namespace {

const std::vector<CaseTables>& all_tables() {
  static const std::vector<CaseTables> tables = [] {
    std::vector<CaseTables> made;
    for (unsigned precision = 12; precision <= 16; ++precision) {
      const std::uint32_t total = 1u << precision;
      const std::vector<std::uint32_t> singles(total, 1);
      made.push_back(tables_of({{total},
                                {total - 1, 1},
                                {1, total - 1},
                                {1, total - 2, 1},
                                {1, total - 2, 1},
                                {total / 2, total / 2},
                                {total / 3, 1, total / 3, 1, total - 2 * (total / 3) - 2},
                                singles},
                               {0, 0, -7, static_cast<std::int32_t>(kInt32Max - 1),
                                static_cast<std::int32_t>(kInt32Min), 127, -2,
                                -static_cast<std::int32_t>(total / 2)},
                               precision));
      Random random(precision);
      made.push_back(random_tables(&random));
    }
    made.push_back(tables_of({{2048, 2047, 1}}, {-1}, 12));
    return made;
  }();
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
        index_step(input->take(1)),
        lanes(input->take(1) % 8),
        chunks(input->take(1)),
        seal(static_cast<std::uint16_t>(input->take(2))),
        threads(input->take(1) % 16 == 1 ? 2 : 1) {}

  Mode mode;
  const CaseTables& tables;
  std::uint32_t types;
  std::size_t count;
  std::uint32_t index_pattern;
  std::uint32_t index_step;
  std::uint32_t lanes;
  std::size_t chunks;
  std::uint16_t seal;
  unsigned threads;
};

// What a stream tells if it is taken for the beginning of one.
template <typename Symbol>
struct Beginning {
  std::vector<Symbol> symbols;
  std::vector<std::uint8_t> known;
};

// At every level; all must agree.
template <typename Symbol, typename Index>
Beginning<Symbol> begin_everywhere(const std::vector<std::uint8_t>& stream,
                                   const std::vector<Index>& indexes, const Choices& choices) {
  Beginning<Symbol> first;
  for (const SimdLevel level : supported_levels()) {
    Beginning<Symbol> found{std::vector<Symbol>(indexes.size(), Symbol{99}),
                            std::vector<std::uint8_t>(indexes.size(), 99)};
    rans::DecodeOptions options;
    options.level = level;
    const Status status = rans::decode_beginning<Index, Symbol>(
        span_of(stream), span_of(indexes), choices.tables.built, options,
        {found.symbols.data(), found.symbols.size()}, {found.known.data(), found.known.size()});
    ICMH_CHECK(status.is_ok(), status.message());
    for (std::size_t i = 0; i < indexes.size(); ++i) {
      ICMH_CHECK(found.known[i] == 1 || (found.known[i] == 0 && found.symbols[i] == 0),
                 "an unknown symbol is not 0");
    }
    if (level == SimdLevel::scalar) first = found;
    ICMH_CHECK(found.symbols == first.symbols && found.known == first.known,
               std::string(simd_level_name(level)) + " and scalar see different beginnings");
  }
  return first;
}

// Decodes at every level; all must agree. Returns whether they accepted the stream.
template <typename Symbol, typename Index>
bool decode_everywhere(const std::vector<std::uint8_t>& stream, const std::vector<Index>& indexes,
                       const Choices& choices, std::vector<Symbol>* symbols, std::uint16_t* seal) {
  bool accepted = false;
  for (const SimdLevel level : supported_levels()) {
    std::vector<Symbol> decoded(indexes.size());
    std::uint16_t decoded_seal = 0;
    rans::DecodeOptions options;
    options.threads = choices.threads;
    options.level = level;
    const Status status =
        rans::decode<Index, Symbol>(span_of(stream), span_of(indexes), choices.tables.built,
                                    options, {decoded.data(), decoded.size()}, &decoded_seal);
    ICMH_CHECK(status.kind() != StatusKind::kBadArgument, status.message());
    if (level == SimdLevel::scalar) {
      accepted = status.is_ok();
      *symbols = decoded;
      *seal = decoded_seal;
    }
    ICMH_CHECK(status.is_ok() == accepted,
               std::string(simd_level_name(level)) + " and scalar do not accept the same streams");
    ICMH_CHECK(!accepted || (decoded == *symbols && decoded_seal == *seal),
               std::string(simd_level_name(level)) + " and scalar decode differently");
  }
  const auto beginning = begin_everywhere<Symbol>(stream, indexes, choices);
  const bool complete = std::count(beginning.known.begin(), beginning.known.end(), 1) ==
                        static_cast<std::ptrdiff_t>(indexes.size());
  ICMH_CHECK(!accepted || (complete && beginning.symbols == *symbols),
             "a whole stream is taken for a cut one");
  return accepted;
}

template <typename Symbol, typename Index>
std::vector<std::uint8_t> encode_everywhere(const std::vector<Symbol>& symbols,
                                            const std::vector<Index>& indexes,
                                            const Choices& choices, std::uint16_t seal) {
  std::vector<std::uint8_t> stream;
  rans::EncodeOptions options;
  options.lanes = choices.lanes == 7 ? 0 : 1u << choices.lanes;
  options.seal = seal;
  options.threads = choices.threads;
  const std::size_t chunks = choices.chunks;
  if (chunks != 0 && chunks <= symbols.size()) {
    const std::size_t chunk_size = (symbols.size() + chunks - 1) / chunks;
    if ((chunks - 1) * chunk_size < symbols.size()) options.chunks = chunks;
  }
  for (const SimdLevel level : supported_levels()) {
    options.level = level;
    std::vector<std::uint8_t> bytes;
    const Status status = rans::encode<Symbol, Index>(
        span_of(symbols), span_of(indexes), choices.tables.built, options, &bytes);
    ICMH_CHECK(status.is_ok(), status.message());
    if (level == SimdLevel::scalar) stream = bytes;
    ICMH_CHECK(bytes == stream,
               std::string(simd_level_name(level)) + " and scalar write different bytes");
  }
  return stream;
}

template <typename Symbol, typename Index>
void run(Input* input, const Choices& choices) {
  const auto indexes = indexes_of<Index>(choices.index_pattern, choices.index_step,
                                         choices.tables.num_rows(), choices.count);
  std::vector<Symbol> decoded;
  std::uint16_t seal = 0;
  if (choices.mode == Mode::decode) {
    if (decode_everywhere(input->rest(), indexes, choices, &decoded, &seal)) {
      // What a stream means can be written again.
      const auto stream = encode_everywhere(decoded, indexes, choices, seal);
      std::vector<Symbol> again;
      std::uint16_t seal_again = 0;
      ICMH_CHECK(decode_everywhere(stream, indexes, choices, &again, &seal_again), "");
      ICMH_CHECK(again == decoded && seal_again == seal, "");
    }
    return;
  }
  const auto symbols = symbols_of<Symbol>(input, choices.tables.offsets, indexes);
  const std::uint16_t own_seal = symbols.empty() ? std::uint16_t{0} : choices.seal;
  auto stream = encode_everywhere(symbols, indexes, choices, own_seal);
  if (choices.mode == Mode::round_trip) {
    ICMH_CHECK(decode_everywhere(stream, indexes, choices, &decoded, &seal), "");
    ICMH_CHECK(decoded == symbols && seal == own_seal, "");
    // Cut anywhere, it tells nothing that is not so. The seal is any number: it says where.
    stream.resize(choices.seal % (stream.size() + 1));
    stream.shrink_to_fit();
    const auto beginning = begin_everywhere<Symbol>(stream, indexes, choices);
    for (std::size_t i = 0; i < symbols.size(); ++i) {
      ICMH_CHECK(beginning.known[i] == 0 || beginning.symbols[i] == symbols[i],
                 "the beginning of a stream tells other symbols");
    }
    return;
  }
  damage(input, &stream);
  decode_everywhere(stream, indexes, choices, &decoded, &seal);
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
