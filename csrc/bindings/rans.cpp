#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/parts.h"
#include "rans/coder.h"
#include "rans/tables.h"

namespace icmh::bindings {
namespace {

// Raised for kCorrupt; icmh_rt.rans turns it into BitstreamError.
class CorruptStream : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void throw_unless_ok(const Status& status) {
  switch (status.kind()) {
    case StatusKind::kOk:
      return;
    case StatusKind::kBadArgument:
      throw py::value_error(status.message());
    case StatusKind::kCorrupt:
      throw CorruptStream(status.message());
  }
}

// Calls work(span) with the indexes as whichever of the three dtypes they have.
template <class Work>
auto visit_indexes(const py::handle& indexes, const Work& work) {
  using U8 = py::array_t<std::uint8_t, py::array::c_style>;
  using U16 = py::array_t<std::uint16_t, py::array::c_style>;
  using I32 = py::array_t<std::int32_t, py::array::c_style>;
  if (py::isinstance<U8>(indexes)) return work(span_of(py::reinterpret_borrow<U8>(indexes)));
  if (py::isinstance<U16>(indexes)) return work(span_of(py::reinterpret_borrow<U16>(indexes)));
  if (py::isinstance<I32>(indexes)) return work(span_of(py::reinterpret_borrow<I32>(indexes)));
  throw py::type_error("indexes must be a C-contiguous uint8, uint16 or int32 array");
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
                      std::uint16_t seal) {
  const auto symbol_array = exact_array<std::int32_t>(symbols, "symbols", {-1});
  const rans::EncodeOptions options{lanes, chunks, seal};
  std::vector<std::uint8_t> stream;
  const Status status = visit_indexes(indexes, [&](auto index_span) {
    py::gil_scoped_release release;
    return rans::encode(span_of(symbol_array), index_span, tables, options, &stream);
  });
  throw_unless_ok(status);
  return py::bytes(reinterpret_cast<const char*>(stream.data()), stream.size());
}

py::tuple rans_decode(const py::buffer& data, const py::object& indexes,
                      const rans::Tables& tables) {
  const ByteView view = view_bytes(data);
  py::array_t<std::int32_t> symbols;
  std::uint16_t seal = 0;
  const Status status = visit_indexes(indexes, [&](auto index_span) {
    symbols = py::array_t<std::int32_t>(static_cast<py::ssize_t>(index_span.size));
    const Span<std::int32_t> output{symbols.mutable_data(), index_span.size};
    py::gil_scoped_release release;
    return rans::decode({view.data, view.size}, index_span, tables, output, &seal);
  });
  throw_unless_ok(status);
  return py::make_tuple(symbols, seal);
}

}  // namespace

void bind_rans(py::module_& module) {
  py::register_exception<CorruptStream>(module, "CorruptStream", PyExc_ValueError);
  py::class_<rans::Tables>(module, "RansTables",
                                 "Quantized CDF tables ready for coding; immutable.")
      .def(py::init(&build_rans_tables), py::arg("cdfs"), py::arg("lengths"), py::arg("offsets"),
           py::arg("precision"));
  module.def("rans_encode", &rans_encode, py::arg("symbols"), py::arg("indexes"),
             py::arg("tables"), py::arg("lanes") = 0, py::arg("chunks") = 0,
             py::arg("seal") = 0,
             "symbols int32 (N,), indexes uint8, uint16 or int32 (N,) -> bytes.");
  module.def("rans_decode", &rans_decode, py::arg("data"), py::arg("indexes"), py::arg("tables"),
             "bytes, indexes of any shape -> (int32 (indexes.size,), seal).");
}

}  // namespace icmh::bindings
