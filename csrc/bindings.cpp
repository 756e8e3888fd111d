// The pybind11 module icmh_rt._C: validates arguments and releases the GIL, nothing else.
// Each part of csrc has one bind_* function; the work happens in the Python-free sources.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/crc32c.h"
#include "kernels/integer_network.h"
#include "rans/coder.h"
#include "rans/tables.h"

namespace py = pybind11;

namespace {

// A view of any C-contiguous buffer (bytes, bytearray, memoryview, numpy array) as bytes.
struct ByteView {
  py::buffer_info info;
  const std::uint8_t* data;
  std::size_t size;
};

ByteView view_bytes(const py::buffer& buffer) {
  py::buffer_info info = buffer.request();
  py::ssize_t expected_stride = info.itemsize;
  for (py::ssize_t axis = info.ndim - 1; axis >= 0; --axis) {
    if (info.shape[axis] > 1 && info.strides[axis] != expected_stride) {
      throw py::value_error("the buffer is not C-contiguous; make a contiguous copy first");
    }
    expected_stride *= info.shape[axis];
  }
  const auto* data = static_cast<const std::uint8_t*>(info.ptr);
  const auto size = static_cast<std::size_t>(info.size * info.itemsize);
  return ByteView{std::move(info), data, size};
}

void bind_common(py::module_& module) {
  module.def(
      "crc32c",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return icmh::crc32c(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "CRC-32C of a contiguous buffer, continued from `initial`.");
  module.def(
      "crc32c_portable",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return icmh::crc32c_portable(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "The table-driven CRC-32C that crc32c must equal; for the tests.");
}

// Checks that `value` is a C-contiguous array of exactly this dtype and shape; -1 is any length.
template <class T>
py::array_t<T, py::array::c_style> exact_array(const py::handle& value, const char* name,
                                               std::initializer_list<py::ssize_t> shape) {
  using Array = py::array_t<T, py::array::c_style>;
  const std::string wanted =
      std::string(name) + " must be a C-contiguous " +
      std::string(py::str(static_cast<const py::object&>(py::dtype::of<T>()))) + " array";
  if (!py::isinstance<Array>(value)) throw py::type_error(wanted);
  auto array = py::reinterpret_borrow<Array>(value);
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (const py::ssize_t length : shape) {
    if (fits && length >= 0 && array.shape(axis) != length) fits = false;
    ++axis;
  }
  if (!fits) {
    throw py::value_error(std::string(name) + " has another shape than its layer or table needs");
  }
  return array;
}

// The view of a layer given as (op, shuffle, weight, bias, shift, low, high); `keep` holds its
// arrays alive.
icmh::IntegerLayerView view_layer(const py::handle& value, std::vector<py::object>& keep) {
  const auto parts = py::cast<py::tuple>(value);
  if (parts.size() != 7) throw py::value_error("a layer is a tuple of seven");
  icmh::IntegerLayerView view{};
  const auto op = py::cast<std::int32_t>(parts[0]);
  if (op < 0 || op > 2) throw py::value_error("a layer's op is 0, 1 or 2");
  view.op = static_cast<icmh::IntegerOp>(op);
  view.shuffle = py::cast<bool>(parts[1]);
  py::array_t<std::int16_t, py::array::c_style> weight;
  if (view.op == icmh::IntegerOp::conv1x1) {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, -1});
  } else if (view.op == icmh::IntegerOp::conv3x3) {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, 3, 3, -1});
  } else {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, 3, 3});
  }
  const py::ssize_t rows = weight.shape(0);
  const py::ssize_t depth =
      view.op == icmh::IntegerOp::depthwise3x3 ? rows : weight.shape(weight.ndim() - 1);
  if (rows > INT32_MAX || depth > INT32_MAX) throw py::value_error("weight is too large");
  view.out_channels = static_cast<std::int32_t>(rows);
  view.in_channels = static_cast<std::int32_t>(depth);
  const auto bias = exact_array<std::int32_t>(parts[3], "bias", {rows});
  const auto shift = exact_array<std::uint8_t>(parts[4], "shift", {rows});
  const auto low = exact_array<std::int32_t>(parts[5], "low", {rows});
  const auto high = exact_array<std::int32_t>(parts[6], "high", {rows});
  view.weight = weight.data();
  view.bias = bias.data();
  view.shift = shift.data();
  view.low = low.data();
  view.high = high.data();
  keep.insert(keep.end(), {weight, bias, shift, low, high});
  return view;
}

// pybind11 needs a complete type; the network itself is opaque.
struct PyIntegerNetwork {
  icmh::IntegerNetworkPointer network;
};

PyIntegerNetwork pack_integer_network(
    const py::list& trunk, const py::tuple& mean_head, const py::tuple& scale_head,
    const py::object& z_multiplier, const py::object& z_limit, std::int32_t z_shift,
    std::int32_t input_limit, const py::object& mean_multiplier, const py::object& mean_shift,
    std::int32_t mean_limit, const py::object& index_offset, std::int32_t index_bits,
    std::int32_t scales) {
  std::vector<py::object> keep;
  std::vector<icmh::IntegerLayerView> layers;
  for (const py::handle& layer : trunk) layers.push_back(view_layer(layer, keep));
  icmh::IntegerNetworkView view{};
  view.trunk = layers.data();
  view.trunk_layers = static_cast<std::int32_t>(layers.size());
  view.mean_head = view_layer(mean_head, keep);
  view.scale_head = view_layer(scale_head, keep);
  const py::ssize_t inputs = layers.empty() ? view.mean_head.in_channels : layers[0].in_channels;
  const py::ssize_t outputs = view.mean_head.out_channels;
  const auto first = exact_array<std::int32_t>(z_multiplier, "z_multiplier", {-1, inputs});
  const py::ssize_t qualities = first.shape(0);
  const auto limit = exact_array<std::int32_t>(z_limit, "z_limit", {qualities, inputs});
  const auto multiplier =
      exact_array<std::int32_t>(mean_multiplier, "mean_multiplier", {qualities, outputs});
  const auto shift = exact_array<std::uint8_t>(mean_shift, "mean_shift", {qualities, outputs});
  const auto offset =
      exact_array<std::int32_t>(index_offset, "index_offset", {qualities, outputs});
  if (qualities > INT32_MAX) throw py::value_error("z_multiplier has too many rows");
  view.qualities = static_cast<std::int32_t>(qualities);
  view.z_multiplier = first.data();
  view.z_limit = limit.data();
  view.z_shift = z_shift;
  view.input_limit = input_limit;
  view.mean_multiplier = multiplier.data();
  view.mean_shift = shift.data();
  view.mean_limit = mean_limit;
  view.index_offset = offset.data();
  view.index_bits = index_bits;
  view.scales = scales;
  icmh::IntegerNetworkPointer network = icmh::integer_network_pack(view);
  if (network == nullptr) {
    throw py::value_error("the integer network's layers or tables do not fit together");
  }
  return PyIntegerNetwork{std::move(network)};
}

py::tuple run_integer_network(const PyIntegerNetwork& self, const py::object& z,
                              std::int32_t quality_row, const std::string& level_name,
                              std::int32_t threads) {
  const icmh::IntegerNetwork& network = *self.network;
  const auto input =
      exact_array<std::int32_t>(z, "z", {-1, -1, icmh::integer_network_z_channels(network)});
  icmh::IntegerLevel level = icmh::integer_level_best();
  if (level_name != "auto") {
    bool found = false;
    for (std::int32_t i = 0; i < icmh::kIntegerLevels; ++i) {
      const auto candidate = static_cast<icmh::IntegerLevel>(i);
      if (level_name != icmh::integer_level_name(candidate)) continue;
      level = candidate;
      found = icmh::integer_level_supported(candidate);
    }
    if (!found) throw py::value_error("level " + level_name + " is not available on this CPU");
  }
  const py::ssize_t height = input.shape(0);
  const py::ssize_t width = input.shape(1);
  // Checked before anything is allocated; the launcher checks the same again.
  constexpr py::ssize_t kMaxSide = 1 << 20;
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
    throw py::value_error("z must have a height and a width of 1 to 2^20");
  }
  const py::ssize_t factor = icmh::integer_network_upsampling(network);
  const py::ssize_t channels = icmh::integer_network_latent_channels(network);
  py::array_t<std::int32_t> mean({factor * height, factor * width, channels});
  py::array_t<std::uint8_t> index({factor * height, factor * width, channels});
  std::int32_t* const mean_data = mean.mutable_data();
  std::uint8_t* const index_data = index.mutable_data();
  const std::int32_t* const z_data = input.data();
  bool done = false;
  {
    py::gil_scoped_release release;
    done = icmh::integer_network_run(network, z_data, height, width, quality_row, level, threads,
                                     mean_data, index_data);
  }
  if (!done) throw py::value_error("quality_row or threads is out of range");
  return py::make_tuple(std::move(mean), std::move(index));
}

void bind_integer_network(py::module_& module) {
  module.def(
      "integer_network_levels",
      [] {
        py::list names;
        for (std::int32_t i = 0; i < icmh::kIntegerLevels; ++i) {
          const auto level = static_cast<icmh::IntegerLevel>(i);
          if (icmh::integer_level_supported(level)) names.append(icmh::integer_level_name(level));
        }
        return names;
      },
      "Names of the instruction-set levels that this CPU can run, slowest first.");
  py::class_<PyIntegerNetwork>(module, "IntegerNetwork",
                               "Packed weights of an integer hyper-synthesis; immutable.")
      .def(py::init(&pack_integer_network), py::kw_only(), py::arg("trunk"), py::arg("mean_head"),
           py::arg("scale_head"), py::arg("z_multiplier"), py::arg("z_limit"), py::arg("z_shift"),
           py::arg("input_limit"), py::arg("mean_multiplier"), py::arg("mean_shift"),
           py::arg("mean_limit"), py::arg("index_offset"), py::arg("index_bits"),
           py::arg("scales"))
      .def("run", &run_integer_network, py::arg("z"), py::arg("quality_row"),
           py::arg("level") = "auto", py::arg("threads") = 1,
           "z int32 (H, W, Z) -> mean int32 and index uint8, (fH, fW, M) each.");
}

// Raised for kCorrupt; icmh_rt.rans turns it into BitstreamError.
class CorruptStream : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void throw_unless_ok(const icmh::Status& status) {
  switch (status.kind()) {
    case icmh::StatusKind::kOk:
      return;
    case icmh::StatusKind::kBadArgument:
      throw py::value_error(status.message());
    case icmh::StatusKind::kCorrupt:
      throw CorruptStream(status.message());
  }
}

template <class T>
icmh::Span<const T> span_of(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
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

icmh::rans::Tables build_rans_tables(const py::object& cdfs, const py::object& lengths,
                                     const py::object& offsets, unsigned precision) {
  const auto cdf_array = exact_array<std::uint32_t>(cdfs, "cdfs", {-1, -1});
  const py::ssize_t rows = cdf_array.shape(0);
  const auto length_array = exact_array<std::int32_t>(lengths, "lengths", {rows});
  const auto offset_array = exact_array<std::int32_t>(offsets, "offsets", {rows});
  icmh::rans::Tables tables;
  throw_unless_ok(icmh::rans::Tables::build(
      span_of(cdf_array), static_cast<std::size_t>(cdf_array.shape(1)), span_of(length_array),
      span_of(offset_array), precision, &tables));
  return tables;
}

py::bytes rans_encode(const py::object& symbols, const py::object& indexes,
                      const icmh::rans::Tables& tables, unsigned lanes, std::size_t chunks,
                      std::uint16_t seal) {
  const auto symbol_array = exact_array<std::int32_t>(symbols, "symbols", {-1});
  const icmh::rans::EncodeOptions options{lanes, chunks, seal};
  std::vector<std::uint8_t> stream;
  const icmh::Status status = visit_indexes(indexes, [&](auto index_span) {
    py::gil_scoped_release release;
    return icmh::rans::encode(span_of(symbol_array), index_span, tables, options, &stream);
  });
  throw_unless_ok(status);
  return py::bytes(reinterpret_cast<const char*>(stream.data()), stream.size());
}

py::tuple rans_decode(const py::buffer& data, const py::object& indexes,
                      const icmh::rans::Tables& tables) {
  const ByteView view = view_bytes(data);
  py::array_t<std::int32_t> symbols;
  std::uint16_t seal = 0;
  const icmh::Status status = visit_indexes(indexes, [&](auto index_span) {
    symbols = py::array_t<std::int32_t>(static_cast<py::ssize_t>(index_span.size));
    const icmh::Span<std::int32_t> output{symbols.mutable_data(), index_span.size};
    py::gil_scoped_release release;
    return icmh::rans::decode({view.data, view.size}, index_span, tables, output, &seal);
  });
  throw_unless_ok(status);
  return py::make_tuple(symbols, seal);
}

void bind_rans(py::module_& module) {
  py::register_exception<CorruptStream>(module, "CorruptStream", PyExc_ValueError);
  py::class_<icmh::rans::Tables>(module, "RansTables",
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

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native parts of icmh_rt; import it through icmh_rt._native.";
  bind_common(module);
  bind_integer_network(module);
  bind_rans(module);
}
