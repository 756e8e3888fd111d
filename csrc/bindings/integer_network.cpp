#include "kernels/integer_network.h"

#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/parts.h"

namespace icmh::bindings {
namespace {

// The view of a layer given as (op, shuffle, weight, bias, shift, low, high); `keep` holds its
// arrays alive.
IntegerLayerView view_layer(const py::handle& value, std::vector<py::object>& keep) {
  const auto parts = py::cast<py::tuple>(value);
  if (parts.size() != 7) throw py::value_error("a layer is a tuple of seven");
  IntegerLayerView view{};
  const auto op = py::cast<std::int32_t>(parts[0]);
  if (op < 0 || op > 2) throw py::value_error("a layer's op is 0, 1 or 2");
  view.op = static_cast<IntegerOp>(op);
  view.shuffle = py::cast<bool>(parts[1]);
  py::array_t<std::int16_t, py::array::c_style> weight;
  if (view.op == IntegerOp::conv1x1) {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, -1});
  } else if (view.op == IntegerOp::conv3x3) {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, 3, 3, -1});
  } else {
    weight = exact_array<std::int16_t>(parts[2], "weight", {-1, 3, 3});
  }
  const py::ssize_t rows = weight.shape(0);
  const py::ssize_t depth =
      view.op == IntegerOp::depthwise3x3 ? rows : weight.shape(weight.ndim() - 1);
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
  IntegerNetworkPointer network;
};

PyIntegerNetwork pack_integer_network(
    const py::list& trunk, const py::tuple& mean_head, const py::tuple& scale_head,
    const py::object& z_multiplier, const py::object& z_limit, std::int32_t z_shift,
    std::int32_t input_limit, const py::object& mean_multiplier, const py::object& mean_shift,
    std::int32_t mean_limit, const py::object& index_offset, std::int32_t index_bits,
    std::int32_t scales) {
  std::vector<py::object> keep;
  std::vector<IntegerLayerView> layers;
  for (const py::handle& layer : trunk) layers.push_back(view_layer(layer, keep));
  IntegerNetworkView view{};
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
  IntegerNetworkPointer network = integer_network_pack(view);
  if (network == nullptr) {
    throw py::value_error("the integer network's layers or tables do not fit together");
  }
  return PyIntegerNetwork{std::move(network)};
}

py::tuple run_integer_network(const PyIntegerNetwork& self, const py::object& z,
                              std::int32_t quality_row, const std::string& level_name,
                              std::int32_t threads) {
  const IntegerNetwork& network = *self.network;
  const auto input =
      exact_array<std::int32_t>(z, "z", {-1, -1, integer_network_z_channels(network)});
  IntegerLevel level = integer_level_best();
  if (level_name != "auto") {
    bool found = false;
    for (std::int32_t i = 0; i < kIntegerLevels; ++i) {
      const auto candidate = static_cast<IntegerLevel>(i);
      if (level_name != integer_level_name(candidate)) continue;
      level = candidate;
      found = integer_level_supported(candidate);
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
  const py::ssize_t factor = integer_network_upsampling(network);
  const py::ssize_t channels = integer_network_latent_channels(network);
  py::array_t<std::int32_t> mean({factor * height, factor * width, channels});
  py::array_t<std::uint8_t> index({factor * height, factor * width, channels});
  std::int32_t* const mean_data = mean.mutable_data();
  std::uint8_t* const index_data = index.mutable_data();
  const std::int32_t* const z_data = input.data();
  bool done = false;
  {
    const GilReleased released;
    done = integer_network_run(network, z_data, height, width, quality_row, level, threads,
                                     mean_data, index_data);
  }
  if (!done) throw py::value_error("quality_row or threads is out of range");
  return py::make_tuple(std::move(mean), std::move(index));
}

}  // namespace

void bind_integer_network(py::module_& module) {
  module.def(
      "integer_network_levels",
      [] {
        py::list names;
        for (std::int32_t i = 0; i < kIntegerLevels; ++i) {
          const auto level = static_cast<IntegerLevel>(i);
          if (integer_level_supported(level)) names.append(integer_level_name(level));
        }
        return names;
      },
      "Names of the instruction-set levels that this CPU can run, slowest first.");
  module.def(
      "integer_network_level", [] { return integer_level_name(integer_level_best()); },
      "The level that \"auto\" stands for: the fastest one that simd_level() allows.");
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

}  // namespace icmh::bindings
