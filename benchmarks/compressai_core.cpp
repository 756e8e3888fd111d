// CompressAI's rANS coder without its Python border, for benchmarks/rans.py to time.
//
// Compiled at run time against the source distribution of the installed CompressAI, with
// compressai/cpp_exts/rans and third_party/ryg_rans among the include folders. Everything that its
// pybind11 functions convert from lists before they code is converted here once, when a case is
// made, so that a timed call is the coder's own work: its buffers, its loops, its result.
//
// The encoder ends in a Python bytes object, so the functions must be called with the GIL held.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "rans_interface.cpp"

#define BENCHMARK_API extern "C" __attribute__((visibility("default")))

namespace {

struct Case {
  std::vector<std::int32_t> symbols;
  std::vector<std::int32_t> indexes;
  std::vector<std::vector<std::int32_t>> cdfs;
  std::vector<std::int32_t> lengths;
  std::vector<std::int32_t> offsets;
  std::string stream;
};

}  // namespace

BENCHMARK_API Case* case_new(const std::int32_t* symbols, const std::int32_t* indexes,
                             std::size_t count, const std::int32_t* cdfs, std::size_t rows,
                             std::size_t columns, const std::int32_t* lengths,
                             const std::int32_t* offsets) {
  Case* const made = new Case;
  made->symbols.assign(symbols, symbols + count);
  made->indexes.assign(indexes, indexes + count);
  for (std::size_t row = 0; row < rows; ++row) {
    made->cdfs.emplace_back(cdfs + row * columns, cdfs + (row + 1) * columns);
  }
  made->lengths.assign(lengths, lengths + rows);
  made->offsets.assign(offsets, offsets + rows);
  return made;
}

BENCHMARK_API void case_delete(Case* it) { delete it; }

// Codes the symbols and drops the stream; returns its size.
BENCHMARK_API std::size_t case_encode(Case* it) {
  BufferedRansEncoder encoder;
  encoder.encode_with_indexes(it->symbols, it->indexes, it->cdfs, it->lengths, it->offsets);
  return py::len(encoder.flush());
}

// Codes the symbols and keeps the stream for case_stream and case_decode; returns its size.
BENCHMARK_API std::size_t case_prepare(Case* it) {
  BufferedRansEncoder encoder;
  encoder.encode_with_indexes(it->symbols, it->indexes, it->cdfs, it->lengths, it->offsets);
  it->stream = std::string(encoder.flush());
  return it->stream.size();
}

BENCHMARK_API void case_stream(const Case* it, char* to) {
  std::memcpy(to, it->stream.data(), it->stream.size());
}

// Decodes the kept stream and drops the symbols; returns the last one, so that none is left out.
BENCHMARK_API std::int32_t case_decode(Case* it) {
  RansDecoder decoder;
  return decoder
      .decode_with_indexes(it->stream, it->indexes, it->cdfs, it->lengths, it->offsets)
      .back();
}

// True if the kept stream decodes to the symbols.
BENCHMARK_API bool case_check(Case* it) {
  RansDecoder decoder;
  return decoder.decode_with_indexes(it->stream, it->indexes, it->cdfs, it->lengths,
                                     it->offsets) == it->symbols;
}
