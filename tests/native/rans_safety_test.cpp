// The rANS coder on data, arrays and options that nobody should give it, at every SIMD level:
// nothing outside the arrays is touched, memory stays bounded, every level gives the same answer.
//
// All arrays lie against pages that cannot be touched (memory_guards.h), so an access outside of
// them ends the program in any build, with or without sanitizers.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "common/simd.h"
#include "memory_guards.h"
#include "random.h"
#include "rans/coder.h"
#include "rans_cases.h"

namespace icmh::tests {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr unsigned kSectionSeconds = 900;  // far more than any needs: an endless loop ends here

const char* section_name = "";

extern "C" void on_alarm(int) {
  const char text[] = "rans_safety_test: a section does not end\n";
  (void)!write(STDERR_FILENO, text, sizeof text - 1);
  _exit(1);
}

void start_section(const char* name) {
  std::printf("%s\n", name);
  std::fflush(stdout);
  section_name = name;
  current_case() = name;
  alarm(kSectionSeconds);
}

// Arrays for calls of the coder, all guarded on one side.
template <typename Symbol, typename Index>
class Arena {
 public:
  Arena(std::size_t most_symbols, std::size_t most_bytes)
      : symbols_(most_symbols),
        indexes_(most_symbols),
        known_(most_symbols),
        bytes_(most_bytes) {}

  void set_side(GuardSide side) { side_ = side; }

  Status encode(const std::vector<Symbol>& symbols, const std::vector<Index>& indexes,
                const rans::Tables& tables, const rans::EncodeOptions& options, Bytes* out) {
    return rans::encode<Symbol, Index>(symbols_.place(symbols, side_),
                                       indexes_.place(indexes, side_), tables, options, out);
  }

  // What `decode` found its data to tell as the beginning of a stream.
  struct Beginning {
    std::vector<Symbol> symbols;
    Bytes known;
  };
  const Beginning& beginning() const { return beginning_; }

  // Decodes at every level, also as the beginning of a stream; all must agree. `symbols` may be null.
  Status decode(const Bytes& data, const std::vector<Index>& indexes, const rans::Tables& tables,
                std::vector<Symbol>* symbols) {
    const Span<const std::uint8_t> data_span = bytes_.place(data, side_);
    const Span<const Index> index_span = indexes_.place(indexes, side_);
    Status first = Status::ok();
    std::vector<Symbol> first_symbols;
    for (const SimdLevel level : supported_levels()) {
      const Span<Symbol> output = symbols_.room(indexes.size(), side_);
      std::fill(output.begin(), output.end(), Symbol{99});
      rans::DecodeOptions options;
      options.level = level;
      options.threads = 1;
      std::uint16_t seal = 0;
      Status status =
          rans::decode<Index, Symbol>(data_span, index_span, tables, options, output, &seal);
      if (level == SimdLevel::scalar) {
        first = status;
        if (status.is_ok()) first_symbols.assign(output.begin(), output.end());
        beginning_ = begin(data_span, index_span, tables, options, output, status);
        continue;
      }
      const std::string name = simd_level_name(level);
      ICMH_CHECK(status.kind() == first.kind(), name + " says '" + status.message() +
                                                    "', scalar says '" + first.message() + "'");
      ICMH_CHECK(!status.is_ok() || std::equal(output.begin(), output.end(), first_symbols.begin()),
                 name + " and scalar decode different symbols");
      const Beginning other = begin(data_span, index_span, tables, options, output, status);
      ICMH_CHECK(other.known == beginning_.known && other.symbols == beginning_.symbols,
                 name + " and scalar see different beginnings");
    }
    if (symbols != nullptr) *symbols = first_symbols;
    return first;
  }

 private:
  // Takes the same data for the beginning of a stream, into the same output. Of a whole stream it must
  // tell what `decode` has left in the output.
  Beginning begin(Span<const std::uint8_t> data, Span<const Index> indexes,
                  const rans::Tables& tables, const rans::DecodeOptions& options,
                  Span<Symbol> output, const Status& whole) {
    const std::vector<Symbol> expected(output.begin(), output.end());
    const Span<std::uint8_t> known = known_.room(indexes.size, side_);
    std::fill(known.begin(), known.end(), std::uint8_t{99});
    const Status status =
        rans::decode_beginning<Index, Symbol>(data, indexes, tables, options, output, known);
    if (!status.is_ok()) {
      ICMH_CHECK(status.kind() == whole.kind() || whole.kind() == StatusKind::kCorrupt,
                 status.message());
      return {};
    }
    for (std::size_t i = 0; i < known.size; ++i) {
      ICMH_CHECK(known[i] == 1 || (known[i] == 0 && output[i] == 0), "an unknown symbol is not 0");
      ICMH_CHECK(!whole.is_ok() || (known[i] == 1 && output[i] == expected[i]),
                 "a whole stream decodes differently as a beginning");
    }
    return {{output.begin(), output.end()}, {known.begin(), known.end()}};
  }

  GuardedArray<Symbol> symbols_;
  GuardedArray<Index> indexes_;
  GuardedArray<std::uint8_t> known_;
  GuardedArray<std::uint8_t> bytes_;
  Beginning beginning_;
  GuardSide side_ = GuardSide::end;
};

// Tables and a plane, whose streams are small enough to damage everywhere.
struct Plane {
  CaseTables tables;
  std::vector<std::int16_t> symbols;
  std::vector<std::uint8_t> indexes;
};

// Rows of about a bit a symbol. Of few such symbols the tail takes all: no group of lanes is coded.
CaseTables cheap_tables(unsigned precision) {
  const std::uint32_t total = 1u << precision;
  return tables_of({{total / 8, total - total / 8 - total / 16 - 1, total / 16, 1},
                    {total},
                    {1, total - 2, 1},
                    {total / 3, total / 3, total - 2 * (total / 3)},
                    {1, 1, 1, total - 4, 1}},
                   {-1, 0, -1, 5, 32764}, precision);
}

// Rows whose values, all of int8, cost as much as can be: the tail is short.
CaseTables costly_tables(unsigned precision) {
  std::vector<std::uint32_t> row(257, 1);
  row.back() = (1u << precision) - 256;
  return tables_of({row, row, row, row, row}, {-128, -128, -128, -128, -128}, precision);
}

CaseTables small_tables(bool costly, unsigned precision) {
  return costly ? costly_tables(precision) : cheap_tables(precision);
}

Plane random_plane(Random* random, std::size_t count, CaseTables tables,
                   std::uint32_t escapes_per_256) {
  Plane plane{std::move(tables), {}, {}};
  const auto rows =
      random_indexes(random, count, static_cast<std::uint32_t>(plane.tables.num_rows()));
  plane.symbols = random_symbols<std::int16_t>(random, plane.tables, rows, escapes_per_256);
  plane.indexes.assign(rows.begin(), rows.end());
  return plane;
}

Bytes encoded(const Plane& plane, unsigned lanes, std::size_t chunks) {
  rans::EncodeOptions options;
  options.lanes = lanes;
  options.chunks = chunks;
  options.seal = 0x1234;
  options.level = SimdLevel::scalar;
  options.threads = 1;
  Bytes stream;
  const Status status = rans::encode<std::int16_t, std::uint8_t>(
      span_of(plane.symbols), span_of(plane.indexes), plane.tables.built, options, &stream);
  ICMH_CHECK(status.is_ok(), status.message());
  return stream;
}

// Calls work(plane, stream) for planes of every number of lanes, cheap and costly, with and without
// escapes and chunks.
template <typename Work>
void for_small_streams(const Work& work) {
  Random random(1);
  constexpr std::uint32_t kEscapeRates[] = {0, 4};
  for (const unsigned lanes : kLaneCounts) {
    for (const std::uint32_t escape_rate : kEscapeRates) {
      for (const std::size_t chunks : {std::size_t{1}, std::size_t{3}}) {
        for (const bool costly : {false, true}) {
          const std::size_t count = chunks * (2 * lanes + 20 + random.below(20));
          const unsigned precision = 12 + random.below(5);
          const Plane plane =
              random_plane(&random, count, small_tables(costly, precision), escape_rate);
          current_case() = std::string(section_name) + ": " + std::to_string(lanes) + " lanes, " +
                           std::to_string(chunks) + " chunks, " + std::to_string(count) +
                           (costly ? " costly" : " cheap") + " symbols of precision " +
                           std::to_string(precision);
          work(plane, encoded(plane, lanes, chunks));
        }
      }
    }
  }
}

void test_truncation() {
  start_section("every stream cut anywhere, or continued, is refused; what its beginning tells is true");
  Arena<std::int16_t, std::uint8_t> arena(1024, 8192);
  for_small_streams([&](const Plane& plane, const Bytes& stream) {
    std::vector<std::int16_t> symbols;
    const Status whole = arena.decode(stream, plane.indexes, plane.tables.built, &symbols);
    ICMH_CHECK(whole.is_ok() && symbols == plane.symbols, whole.message());
    for (std::size_t size = 0; size < stream.size(); ++size) {
      arena.set_side(size % 2 == 0 ? GuardSide::end : GuardSide::start);
      const Bytes cut(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
      const Status status = arena.decode(cut, plane.indexes, plane.tables.built, nullptr);
      ICMH_CHECK(status.kind() == StatusKind::kCorrupt,
                 std::to_string(size) + " of " + std::to_string(stream.size()) + " bytes");
      for (std::size_t i = 0; i < plane.symbols.size(); ++i) {
        ICMH_CHECK(arena.beginning().known[i] == 0 ||
                       arena.beginning().symbols[i] == plane.symbols[i],
                   std::to_string(size) + " bytes tell symbol " + std::to_string(i) + " wrongly");
      }
    }
    for (const unsigned more : {1u, 2u, 3u, 64u, 257u}) {
      for (const unsigned filling : {0x00u, 0x80u, 0xFFu}) {
        Bytes continued = stream;
        continued.resize(stream.size() + more, static_cast<std::uint8_t>(filling));
        const Status status = arena.decode(continued, plane.indexes, plane.tables.built, nullptr);
        ICMH_CHECK(status.kind() == StatusKind::kCorrupt, std::to_string(more) + " bytes more");
      }
    }
  });
}

// All bits of the head, the lengths and most states; of what follows only some in long streams.
std::size_t next_bit(std::size_t bit) { return bit + (bit < 8 * 64 ? 1 : 5); }

void test_bit_flips() {
  start_section("bits of a stream flipped, one at a time");
  Arena<std::int16_t, std::uint8_t> arena(1024, 8192);
  for_small_streams([&](const Plane& plane, const Bytes& stream) {
    for (std::size_t bit = 0; bit < 8 * stream.size(); bit = next_bit(bit)) {
      Bytes flipped = stream;
      flipped[bit / 8] = static_cast<std::uint8_t>(flipped[bit / 8] ^ 1u << bit % 8);
      arena.set_side(bit % 2 == 0 ? GuardSide::end : GuardSide::start);
      (void)arena.decode(flipped, plane.indexes, plane.tables.built, nullptr).is_ok();
    }
  });
}

void test_garbage() {
  start_section("random bytes, with every first byte");
  Arena<std::int16_t, std::uint8_t> arena(1024, 8192);
  Random random(2);
  std::size_t accepted = 0;
  for (unsigned round = 0; round < 16; ++round) {
    const CaseTables tables = small_tables(round % 2 == 1, 12 + round % 5);
    for (unsigned head = 0; head < 256; ++head) {
      const std::uint32_t most_symbols = random.one_in(2) ? 12 : 700;
      const std::size_t count = random.below(most_symbols);
      const auto num_rows = static_cast<std::uint32_t>(tables.num_rows());
      const auto rows = random_indexes(&random, count, num_rows);
      const std::vector<std::uint8_t> indexes(rows.begin(), rows.end());
      const std::uint32_t most_bytes = random.one_in(2) ? 20 : 1200;
      Bytes data(1 + random.below(most_bytes));
      const std::uint32_t kind = random.below(3);
      for (auto& byte : data) {
        byte = static_cast<std::uint8_t>(kind == 0 ? 0 : kind == 1 ? 0xFF : random.next());
      }
      data[0] = static_cast<std::uint8_t>(head);
      arena.set_side(random.of(kGuardSides));
      accepted += arena.decode(data, indexes, tables.built, nullptr).is_ok();
    }
  }
  std::printf("  %zu of %u accepted\n", accepted, 16 * 256);
}

void append_varint(Bytes* out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<std::uint8_t>(value | 0x80));
  out->push_back(static_cast<std::uint8_t>(value));
}

// Bytes that a call may have in use at once besides the arrays of its caller. A stream of n symbols
// has at most n chunks, and at least a byte for each.
std::size_t decode_limit_bytes(std::size_t num_symbols, std::size_t num_chunks) {
  return 65536 + 32 * num_symbols + 96 * num_chunks;
}
std::size_t encode_limit_bytes(std::size_t num_symbols, std::size_t num_chunks) {
  return 65536 + 64 * num_symbols + 256 * num_chunks;
}

void test_headers() {
  start_section("absurd chunk counts, chunk lengths and tail lengths");
  constexpr std::size_t kCount = 400;
  Arena<std::int32_t, std::uint16_t> arena(kCount, 8192);
  const CaseTables tables = cheap_tables(14);
  const std::vector<std::uint16_t> indexes(kCount, 0);
  const std::uint64_t numbers[] = {0,      1,          2,           3,
                                   127,    128,        kCount - 1,  kCount,
                                   401,    65535,      1u << 31,    0xFFFFFFFF,
                                   1u << 16, 1ull << 32, (1ull << 35) - 1, 1ull << 35,
                                   1ull << 62, ~0ull};
  for (unsigned head = 0; head < 16; ++head) {  // the upper bits are refused before anything else
    for (const std::uint64_t first : numbers) {
      for (const std::uint64_t second : numbers) {
        for (const unsigned filling : {0u, 3u, 300u}) {
          Bytes data{static_cast<std::uint8_t>(head)};
          append_varint(&data, first);
          append_varint(&data, second);
          data.resize(data.size() + filling, static_cast<std::uint8_t>(second));
          const std::size_t before = AllocatedBytes::reset();
          const Status status = arena.decode(data, indexes, tables.built, nullptr);
          const std::size_t used = AllocatedBytes::most - before;
          ICMH_CHECK(status.kind() != StatusKind::kBadArgument, status.message());
          ICMH_CHECK(used <= decode_limit_bytes(kCount, std::min(kCount, data.size())),
                     std::to_string(used) + " bytes allocated");
        }
      }
    }
  }
  // A few bytes that claim a chunk for every symbol of a large plane.
  const std::vector<std::uint16_t> many_indexes(1000000, 0);
  std::vector<std::int32_t> many_symbols(many_indexes.size());
  Bytes claim{0x08};
  append_varint(&claim, many_indexes.size());
  claim.resize(claim.size() + 100, 1);
  const std::size_t before = AllocatedBytes::reset();
  std::uint16_t seal = 0;
  const Status claimed = rans::decode<std::uint16_t, std::int32_t>(
      span_of(claim), span_of(many_indexes), tables.built, {},
      {many_symbols.data(), many_symbols.size()}, &seal);
  const std::size_t used = AllocatedBytes::most - before;
  ICMH_CHECK(claimed.kind() == StatusKind::kCorrupt, claimed.message());
  ICMH_CHECK(used <= 65536, std::to_string(used) + " bytes allocated for a short stream");

  // A number in a longer form than its shortest, and one that never ends.
  for (const Bytes& number : {Bytes{0x80, 0x00}, Bytes{0x82, 0x80, 0x00}, Bytes(400, 0x80),
                              Bytes(400, 0xFF)}) {
    for (unsigned head = 0; head < 16; ++head) {
      Bytes data{static_cast<std::uint8_t>(head)};
      data.insert(data.end(), number.begin(), number.end());
      (void)arena.decode(data, indexes, tables.built, nullptr).is_ok();
    }
  }
}

void test_memory() {
  start_section("memory stays within a few times the symbols");
  constexpr std::size_t kCount = 50000;
  Random random(3);
  // All in the tables, then all escapes, then damaged.
  for (const std::uint32_t escape_rate : {0u, 256u}) {
    for (const std::size_t chunks : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, kCount}) {
      const Plane plane = random_plane(&random, kCount, cheap_tables(14), escape_rate);
      for (const SimdLevel level : supported_levels()) {
        rans::EncodeOptions options;
        options.chunks = chunks;
        options.level = level;
        std::size_t before = AllocatedBytes::reset();
        Bytes stream;
        const Status encoded = rans::encode<std::int16_t, std::uint8_t>(
            span_of(plane.symbols), span_of(plane.indexes), plane.tables.built, options, &stream);
        ICMH_CHECK(encoded.is_ok(), encoded.message());
        const std::size_t encode_bytes = AllocatedBytes::most - before;
        ICMH_CHECK(encode_bytes <= encode_limit_bytes(kCount, chunks),
                   std::to_string(encode_bytes) + " bytes allocated to encode");

        std::vector<std::int16_t> symbols(kCount);
        std::size_t decode_bytes = 0;
        for (unsigned damage = 0; damage < 6; ++damage) {
          Bytes damaged = stream;
          if (damage != 0) {
            const std::size_t reach = random.one_in(2) ? 40 : stream.size();
            damaged[random.below(reach)] = static_cast<std::uint8_t>(random.next());
          }
          rans::DecodeOptions decode_options;
          decode_options.level = level;
          std::uint16_t seal = 0;
          before = AllocatedBytes::reset();
          const Status status = rans::decode<std::uint8_t, std::int16_t>(
              span_of(damaged), span_of(plane.indexes), plane.tables.built, decode_options,
              {symbols.data(), symbols.size()}, &seal);
          decode_bytes = std::max<std::size_t>(decode_bytes, AllocatedBytes::most - before);
          ICMH_CHECK(damage != 0 || (status.is_ok() && symbols == plane.symbols), status.message());
        }
        ICMH_CHECK(decode_bytes <= decode_limit_bytes(kCount, chunks),
                   std::to_string(decode_bytes) + " bytes allocated to decode");
        std::printf("  %s, %s, %zu chunks: %.1f bytes a symbol to encode, %.1f to decode\n",
                    simd_level_name(level), escape_rate == 0 ? "no escapes" : "all escapes", chunks,
                    double(encode_bytes) / kCount, double(decode_bytes) / kCount);
      }
    }
  }
}

void check_refused(const Status& status, const std::string& what) {
  ICMH_CHECK(status.kind() == StatusKind::kBadArgument, what + " is not refused");
  ICMH_CHECK(!status.message().empty() && status.message().find('\n') == std::string::npos,
             what + ": the message is not one line");
}

template <typename Index>
void test_indexes_of_type() {
  const CaseTables tables = costly_tables(13);
  const auto num_rows = static_cast<std::int64_t>(tables.num_rows());
  const std::int64_t last = std::numeric_limits<Index>::max();
  const std::int64_t first = std::numeric_limits<Index>::min();
  // Some of them have the lower bits of a good index.
  const std::int64_t bad_indexes[] = {num_rows, num_rows + 1, 8,     16, last,
                                      last - 7, last / 2 + 1, first, -1, -8};
  Arena<std::int8_t, Index> arena(512, 65536);
  constexpr std::size_t kCounts[] = {1,  2,  7,  8,  15, 16,  17,  31,
                                     32, 63, 64, 65, 127, 129, 200, 511};
  for (const std::size_t count : kCounts) {
    const std::vector<std::int8_t> symbols(count, 5);
    const std::vector<Index> zeros(count, 0);
    for (const unsigned lanes : {0u, 1u, 16u, 64u}) {
      rans::EncodeOptions options;
      options.lanes = lanes;
      Bytes stream;
      const Status good = arena.encode(symbols, zeros, tables.built, options, &stream);
      ICMH_CHECK(good.is_ok(), good.message());
      for (const std::size_t place : {std::size_t{0}, count / 2, count - 1}) {
        for (const std::int64_t bad : bad_indexes) {
          if (bad < first || bad > last || (bad >= 0 && bad < num_rows)) continue;
          auto indexes = zeros;
          indexes[place] = static_cast<Index>(bad);
          current_case() = std::string(section_name) + ": index " + std::to_string(bad) + " at " +
                           std::to_string(place) + " of " + std::to_string(count) + ", " +
                           type_name<Index>();
          for (const GuardSide side : kGuardSides) {
            arena.set_side(side);
            for (const SimdLevel level : supported_levels()) {
              options.level = level;
              Bytes out;
              check_refused(arena.encode(symbols, indexes, tables.built, options, &out),
                            std::string("encode, ") + simd_level_name(level));
            }
            check_refused(arena.decode(stream, indexes, tables.built, nullptr), "decode");
          }
        }
      }
    }
  }
}

void test_indexes() {
  start_section("indexes outside the tables are refused");
  test_indexes_of_type<std::uint8_t>();
  test_indexes_of_type<std::uint16_t>();
  test_indexes_of_type<std::int32_t>();
}

void test_options() {
  start_section("options and sizes that mean nothing are refused");
  const CaseTables tables = cheap_tables(12);
  const std::vector<std::int32_t> symbols(100, 0);
  const std::vector<std::uint8_t> indexes(100, 0);
  for (const SimdLevel level : supported_levels()) {
    const auto encode = [&](std::size_t num_symbols, std::size_t num_indexes,
                            rans::EncodeOptions options) {
      options.level = level;
      Bytes out;
      return rans::encode<std::int32_t, std::uint8_t>({symbols.data(), num_symbols},
                                                      {indexes.data(), num_indexes}, tables.built,
                                                      options, &out);
    };
    for (const unsigned lanes : {3u, 5u, 63u, 65u, 96u, 128u, 1u << 31, ~0u}) {
      rans::EncodeOptions options;
      options.lanes = lanes;
      check_refused(encode(100, 100, options), std::to_string(lanes) + " lanes");
    }
    for (const std::size_t chunks : {std::size_t{101}, std::size_t{99}, ~std::size_t{0}}) {
      rans::EncodeOptions options;  // 99 chunks of 2 symbols: half of them would be empty
      options.chunks = chunks;
      check_refused(encode(100, 100, options), std::to_string(chunks) + " chunks");
    }
    rans::EncodeOptions sealed;
    sealed.seal = 1;
    check_refused(encode(0, 0, sealed), "a seal of nothing");
    check_refused(encode(100, 99, {}), "99 indexes for 100 symbols");
    check_refused(encode(99, 100, {}), "100 indexes for 99 symbols");

    Bytes stream;
    ICMH_CHECK((rans::encode<std::int32_t, std::uint8_t>(span_of(symbols), span_of(indexes),
                                                         tables.built, {}, &stream)
                    .is_ok()),
               "");
    std::vector<std::int32_t> output(100);
    std::uint16_t seal = 0;
    rans::DecodeOptions options;
    options.level = level;
    for (const std::size_t size : {std::size_t{0}, std::size_t{99}}) {
      check_refused((rans::decode<std::uint8_t, std::int32_t>(
                        span_of(stream), span_of(indexes), tables.built, options,
                        {output.data(), size}, &seal)),
                    "room for " + std::to_string(size) + " of 100 symbols");
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{99}}) {
      Bytes known(100);
      check_refused((rans::decode_beginning<std::uint8_t, std::int32_t>(
                        span_of(stream), span_of(indexes), tables.built, options,
                        {output.data(), 100}, {known.data(), size})),
                    "room to know " + std::to_string(size) + " of 100 symbols");
    }
    const Status nothing = rans::decode<std::uint8_t, std::int32_t>(
        {nullptr, 0}, {nullptr, 0}, tables.built, options, {nullptr, 0}, &seal);
    ICMH_CHECK(nothing.kind() == StatusKind::kCorrupt, nothing.message());
  }
}

void test_symbol_range() {
  start_section("a value that the output cannot hold is refused");
  // Each value below is in the row of the same number, and an escape of the others.
  const CaseTables tables = tables_of({{1000, 1000, 1000, 1096},
                                       {2000, 1000, 1096},
                                       {2000, 2000, 96},
                                       {4095, 1},
                                       {2000, 2000, 96},
                                       {4096}},
                                      {126, -129, 32766, 70000, -32769, 0}, 12);
  for (const unsigned lanes : kLaneCounts) {
    for (std::size_t place = 0; place < 300; place += 7) {
      for (const std::int32_t value : {128, -129, 32767, 70000, -32769}) {
        std::vector<std::int32_t> symbols(300, 127);
        std::vector<std::uint8_t> indexes(300, 0);
        symbols[place] = value;
        indexes[place] = static_cast<std::uint8_t>(place % tables.num_rows());
        rans::EncodeOptions options;
        options.lanes = lanes;
        Bytes stream;
        ICMH_CHECK((rans::encode<std::int32_t, std::uint8_t>(span_of(symbols), span_of(indexes),
                                                             tables.built, options, &stream)
                        .is_ok()),
                   "");
        Arena<std::int8_t, std::uint8_t> arena(300, 8192);
        ICMH_CHECK(!arena.decode(stream, indexes, tables.built, nullptr).is_ok(),
                   std::to_string(value) + " as int8");
        Arena<std::int16_t, std::uint8_t> wider(300, 8192);
        std::vector<std::int16_t> decoded;
        const Status status = wider.decode(stream, indexes, tables.built, &decoded);
        const bool fits = value == static_cast<std::int16_t>(value);
        ICMH_CHECK(status.is_ok() == fits, std::to_string(value) + " as int16");
        ICMH_CHECK(!status.is_ok() || decoded[place] == value, std::to_string(value));
      }
    }
  }
}

// Every count around the vector widths, every lane count, arrays guarded on either side.
template <typename Symbol, typename Index>
void test_borders_of_type(std::uint64_t seed) {
  Random random(seed);
  Arena<Symbol, Index> arena(1024, 65536);
  const std::uint32_t precision = 12 + random.below(5);
  const CaseTables tables = small_tables(seed % 4 != 0, precision);
  for (std::size_t count = 1; count <= 330; count += count < 140 ? 1 : 19) {
    const auto rows = random_indexes(&random, count, static_cast<std::uint32_t>(tables.num_rows()));
    const auto symbols = random_symbols<Symbol>(&random, tables, rows, 2);
    const std::vector<Index> indexes(rows.begin(), rows.end());
    rans::EncodeOptions options;
    options.lanes = random.of(kLaneCounts);
    current_case() = std::string(section_name) + ": " + std::to_string(count) + " " +
                     type_name<Symbol>() + " symbols, " + type_name<Index>() + " indexes, " +
                     std::to_string(options.lanes) + " lanes";
    for (const GuardSide side : kGuardSides) {
      arena.set_side(side);
      Bytes expected;
      for (const SimdLevel level : supported_levels()) {
        options.level = level;
        Bytes stream;
        const Status status = arena.encode(symbols, indexes, tables.built, options, &stream);
        ICMH_CHECK(status.is_ok(), status.message());
        if (level == SimdLevel::scalar) expected = stream;
        ICMH_CHECK(stream == expected, simd_level_name(level));
      }
      std::vector<Symbol> decoded;
      const Status status = arena.decode(expected, indexes, tables.built, &decoded);
      ICMH_CHECK(status.is_ok() && decoded == symbols, status.message());
    }
  }
}

void test_borders() {
  start_section("arrays of every size next to memory that cannot be touched");
  for (unsigned types = 0; types < 9; ++types) {
    with_types(types / 3, types % 3, [&](auto symbol, auto index) {
      test_borders_of_type<decltype(symbol), decltype(index)>(types);
    });
  }
}

// The tables and everything that the coder allocates, each next to memory that cannot be touched.
void test_fenced_allocations() {
  start_section("tables and working memory next to memory that cannot be touched");
  Random random(4);
  const std::vector<std::uint32_t> singles(65536, 1);  // every symbol stores a word
  for (unsigned round = 0; round < 150; ++round) {
    FencedAllocations fenced(kGuardSides[round % 2]);
    const CaseTables tables =
        round % 16 < 2 ? tables_of({singles}, {-32768}, 16) : random_tables(&random);
    for (unsigned types = 0; types < 3; ++types) {
      const std::size_t count = random.below(round % 10 == 0 ? 9000 : 500);
      const std::uint32_t escapes = random.one_in(2) ? 0 : 8;
      rans::EncodeOptions options;
      options.lanes = random.of(kLaneCounts);
      options.chunks = random_chunks(&random, count);
      const auto usable = static_cast<std::uint32_t>(std::min<std::size_t>(256, tables.num_rows()));
      const auto rows = random_indexes(&random, count, usable);
      current_case() = std::string(section_name) + ": round " + std::to_string(round);
      with_types(types, random.below(3), [&](auto symbol_type, auto index_type) {
        using Symbol = decltype(symbol_type);
        using Index = decltype(index_type);
        const auto symbols = random_symbols<Symbol>(&random, tables, rows, escapes);
        const std::vector<Index> indexes(rows.begin(), rows.end());
        for (const SimdLevel level : supported_levels()) {
          options.level = level;
          Bytes stream;
          const Status encoded = rans::encode<Symbol, Index>(span_of(symbols), span_of(indexes),
                                                             tables.built, options, &stream);
          ICMH_CHECK(encoded.is_ok(), encoded.message());
          for (unsigned damage = 0; damage < 4; ++damage) {
            const Bytes original = stream;
            if (damage != 0) {
              const std::size_t place = random.below(stream.size());
              stream[place] = static_cast<std::uint8_t>(stream[place] ^ 1u << random.below(8));
            }
            std::vector<Symbol> decoded(count);
            std::uint16_t seal = 0;
            rans::DecodeOptions decode_options;
            decode_options.level = level;
            const Status status = rans::decode<Index, Symbol>(
                span_of(stream), span_of(indexes), tables.built, decode_options,
                {decoded.data(), count}, &seal);
            ICMH_CHECK(damage != 0 || (status.is_ok() && decoded == symbols), status.message());
            stream = original;
          }
        }
      });
    }
  }
}

#if !defined(__SANITIZE_THREAD__)
// A caller that breaks the rules and changes its arrays during the call gets any result, but no
// access outside of them: an index must not be believed after it was checked.
void test_changing_arrays() {
  start_section("indexes that another thread changes during the call");
  constexpr std::size_t kCount = 4096;
  const CaseTables tables = costly_tables(12);
  GuardedArray<std::int32_t> index_memory(kCount);
  GuardedArray<std::int16_t> symbol_memory(kCount);
  const Span<std::int32_t> indexes = index_memory.room(kCount, GuardSide::end);
  const Span<std::int16_t> symbols = symbol_memory.room(kCount, GuardSide::end);
  const std::vector<std::uint8_t> empty;
  Bytes stream;
  rans::EncodeOptions options;
  options.lanes = 32;
  options.threads = 1;
  ICMH_CHECK((rans::encode<std::int16_t, std::int32_t>({symbols.data, kCount},
                                                       {indexes.data, kCount}, tables.built,
                                                       options, &stream)
                  .is_ok()),
             "");
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    volatile std::int32_t* const data = indexes.data;
    for (std::size_t i = 0; !stop; i = (i + 7) % kCount) {
      data[i] = 0x7FFFFFFF;
      data[i] = -0x7FFFFFFF;
      data[i] = 0;
    }
  });
  for (const SimdLevel level : supported_levels()) {
    for (unsigned round = 0; round < 200; ++round) {
      options.level = level;
      Bytes out;
      (void)rans::encode<std::int16_t, std::int32_t>({symbols.data, kCount},
                                                     {indexes.data, kCount}, tables.built, options,
                                                     &out)
          .is_ok();
      rans::DecodeOptions decode_options;
      decode_options.level = level;
      decode_options.threads = 1;
      std::uint16_t seal = 0;
      (void)rans::decode<std::int32_t, std::int16_t>(span_of(stream), {indexes.data, kCount},
                                                     tables.built, decode_options, symbols, &seal)
          .is_ok();
    }
  }
  stop = true;
  writer.join();
}
#endif

int run() {
  std::signal(SIGALRM, &on_alarm);
  std::printf("levels: %s\n", level_names().c_str());
  test_truncation();
  test_bit_flips();
  test_garbage();
  test_headers();
  test_memory();
  test_indexes();
  test_options();
  test_symbol_range();
  test_borders();
  test_fenced_allocations();
#if !defined(__SANITIZE_THREAD__)
  test_changing_arrays();
#endif
  std::printf("rans_safety_test: ok\n");
  return 0;
}

}  // namespace
}  // namespace icmh::tests

int main() { return icmh::tests::run(); }
