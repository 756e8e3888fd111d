#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/parts.h"
#include "bindings/planes.h"
#include "common/simd.h"
#include "rans/coder.h"
#include "rans/tables.h"

namespace icmh::bindings {
namespace {

SimdLevel level_of(const std::string& name) {
  if (name.empty()) return simd_level();
  SimdLevel level;
  throw_unless_ok(simd_level_of_name(name, &level));
  return level;
}

rans::Tables build_rans_tables(const py::object& cdfs, const py::object& lengths,
                                     const py::object& offsets, unsigned precision) {
  const auto cdf_array = exact_array<std::uint32_t>(cdfs, "cdfs", {-1, -1});
  const py::ssize_t rows = cdf_array.shape(0);
  const auto length_array = exact_array<std::int32_t>(lengths, "lengths", {rows});
  const auto offset_array = exact_array<std::int32_t>(offsets, "offsets", {rows});
  rans::Tables tables;
  throw_unless_ok(rans::Tables::build(
      span_of(cdf_array), static_cast<std::size_t>(cdf_array.shape(1)), span_of(length_array),
      span_of(offset_array), precision, &tables));
  return tables;
}

py::bytes rans_encode(const py::object& symbols, const py::object& indexes,
                      const rans::Tables& tables, unsigned lanes, std::size_t chunks,
                      std::uint16_t seal, unsigned threads, const std::string& level) {
  const rans::EncodeOptions options{lanes, chunks, seal, threads, level_of(level)};
  std::vector<std::uint8_t> stream;
  throw_unless_ok(visit_symbols(symbols, [&](const auto& symbol_array) {
    return visit_indexes(indexes, [&](const auto& index_array) {
      const auto symbol_span = span_of(symbol_array);
      const auto index_span = span_of(index_array);
      const GilReleased released;
      return rans::encode(symbol_span, index_span, tables, options, &stream);
    });
  }));
  return py::bytes(reinterpret_cast<const char*>(stream.data()), stream.size());
}

// decode(indexes, symbols) as spans of their own types, without the GIL.
template <typename Decode>
void decode_into(const py::object& indexes, const py::object& symbols, const Decode& decode) {
  throw_unless_ok(visit_symbols(symbols, [&](auto symbol_array) {
    return visit_indexes(indexes, [&](const auto& index_array) {
      using Symbol = typename decltype(symbol_array)::value_type;
      const Span<Symbol> symbol_span{symbol_array.mutable_data(),
                                     static_cast<std::size_t>(symbol_array.size())};
      const auto index_span = span_of(index_array);
      const GilReleased released;
      return decode(index_span, symbol_span);
    });
  }));
}

std::uint16_t rans_decode(const py::buffer& data, const py::object& indexes,
                          const rans::Tables& tables, const py::object& symbols, unsigned threads,
                          const std::string& level) {
  const ByteView view = view_bytes(data);
  const rans::DecodeOptions options{threads, level_of(level)};
  std::uint16_t seal = 0;
  decode_into(indexes, symbols, [&](auto index_span, auto symbol_span) {
    return rans::decode({view.data, view.size}, index_span, tables, options, symbol_span, &seal);
  });
  return seal;
}

void rans_decode_beginning(const py::buffer& data, const py::object& indexes,
                           const rans::Tables& tables, const py::object& symbols,
                           const py::object& known, const std::string& level) {
  const ByteView view = view_bytes(data);
  const rans::DecodeOptions options{1, level_of(level)};
  auto known_array = exact_array<std::uint8_t>(known, "known", {-1});
  const Span<std::uint8_t> known_span{known_array.mutable_data(),
                                      static_cast<std::size_t>(known_array.size())};
  decode_into(indexes, symbols, [&](auto index_span, auto symbol_span) {
    return rans::decode_beginning({view.data, view.size}, index_span, tables, options, symbol_span,
                                  known_span);
  });
}

}  // namespace

void bind_rans(py::module_& module) {
  py::register_exception<CorruptStream>(module, "CorruptStream", PyExc_ValueError);
  py::class_<rans::Tables>(module, "RansTables",
                           "Quantized CDF tables ready for coding; immutable.")
      .def(py::init(&build_rans_tables), py::arg("cdfs"), py::arg("lengths"), py::arg("offsets"),
           py::arg("precision"));
  module.def("rans_encode", &rans_encode, py::arg("symbols"), py::arg("indexes"),
             py::arg("tables"), py::kw_only(), py::arg("lanes") = 0, py::arg("chunks") = 0,
             py::arg("seal") = 0, py::arg("threads") = 0, py::arg("level") = "",
             "symbols int8, int16 or int32, indexes uint8, uint16 or int32 of the same size -> "
             "bytes.");
  module.def("rans_decode", &rans_decode, py::arg("data"), py::arg("indexes"), py::arg("tables"),
             py::arg("symbols"), py::kw_only(), py::arg("threads") = 0, py::arg("level") = "",
             "Fills symbols, int8, int16 or int32 of as many elements as indexes; the seal.");
  module.def("rans_decode_beginning", &rans_decode_beginning, py::arg("data"), py::arg("indexes"),
             py::arg("tables"), py::arg("symbols"), py::arg("known"), py::kw_only(),
             py::arg("level") = "",
             "As rans_decode, of the first bytes of a stream; known, uint8 of one dimension, becomes "
             "1 where they tell the symbol.");
}

}  // namespace icmh::bindings
