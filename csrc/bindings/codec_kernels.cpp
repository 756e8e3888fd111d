#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/addresses.h"
#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/parts.h"
#include "bindings/ranges.h"
#include "kernels/gdn_cpu.h"
#include "kernels/images_cpu.h"
#include "kernels/level.h"
#include "kernels/quantize_index_cpu.h"

namespace icmh::bindings {
namespace {

SimdLevel simd_level_of(const std::string& name) {
  if (name == "auto") return simd_level();
  SimdLevel level{};
  const Status status = simd_level_of_name(name, &level);
  if (!status.is_ok()) throw py::value_error(status.message());
  return level;
}

std::int64_t run_quantize_index(std::int64_t length, Address latent, Address mean,
                                std::int64_t mean_stride, Address gain, std::int64_t gain_period,
                                Address scales, Address thresholds, std::int64_t num_thresholds,
                                Address symbols, Address indexes, const Ranges& rows,
                                unsigned threads, const std::string& level_name) {
  const kernels::QuantizeIndex maps{length,
                                    at<const float>(latent),
                                    at<const float>(mean),
                                    mean_stride,
                                    at<const float>(gain),
                                    gain_period,
                                    at<const float>(scales),
                                    at<const float>(thresholds),
                                    num_thresholds,
                                    at<std::int32_t>(symbols),
                                    at<std::uint8_t>(indexes)};
  const SimdLevel level = simd_level_of(level_name);
  std::atomic<std::int64_t> bad{0};
  run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
    bad += kernels::quantize_index(maps, begin, end, level);
  });
  return bad;
}

// Symbols of numpy arrays (..., M), for the pipeline, which knows no torch.
py::tuple quantize(const py::object& values, const py::object& gain, const py::object& mean) {
  using Array = py::array_t<float, py::array::c_style>;
  if (!py::isinstance<Array>(values) || py::reinterpret_borrow<Array>(values).ndim() < 1) {
    throw py::type_error("values must be a C-contiguous float32 array of one dimension or more");
  }
  const auto latent = py::reinterpret_borrow<Array>(values);
  const py::ssize_t length = latent.shape(latent.ndim() - 1);
  kernels::QuantizeIndex maps{};
  maps.length = length;
  maps.latent = latent.data();
  Array gains, means;
  if (!gain.is_none()) {
    gains = exact_array<float>(gain, "gain", {length});
    maps.gain = gains.data();
  }
  if (!mean.is_none()) {
    if (!py::isinstance<Array>(mean)) throw py::type_error("mean must be C-contiguous float32");
    means = py::reinterpret_borrow<Array>(mean);
    const bool per_channel = means.ndim() == 1 && latent.ndim() != 1;
    bool fits = per_channel ? means.shape(0) == length : means.ndim() == latent.ndim();
    for (py::ssize_t axis = 0; fits && !per_channel && axis < means.ndim(); ++axis) {
      fits = means.shape(axis) == latent.shape(axis);
    }
    if (!fits) throw py::value_error("mean has neither the shape of values nor one per channel");
    maps.mean = means.data();
    maps.mean_stride = per_channel ? 0 : length;
  }
  py::array_t<std::int32_t> symbols(
      std::vector<py::ssize_t>(latent.shape(), latent.shape() + latent.ndim()));
  maps.symbols = symbols.mutable_data();
  const std::int64_t rows = length == 0 ? 0 : latent.size() / length;
  std::int64_t bad = 0;
  {
    const GilReleased released;
    bad = kernels::quantize_index(maps, 0, rows);
  }
  return py::make_tuple(std::move(symbols), bad);
}

void run_image_in(Address image, std::int64_t image_height, std::int64_t image_width,
                  std::int64_t top, std::int64_t left, std::int64_t height, std::int64_t width,
                  bool edge, std::int64_t patch, Address table, std::int32_t bytes_of_value,
                  Address planes, bool channels_last, const Ranges& rows, unsigned threads) {
  const kernels::ImageIn maps{at<const std::uint8_t>(image),
                              image_height,
                              image_width,
                              top,
                              left,
                              height,
                              width,
                              edge,
                              patch,
                              at<const void>(table),
                              bytes_of_value,
                              at<void>(planes),
                              channels_last};
  run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
    kernels::image_in(maps, begin, end);
  });
}

void run_image_out(Address planes, bool channels_last, std::int64_t rows, std::int64_t columns,
                   std::int64_t top, std::int64_t left, std::int64_t height, std::int64_t width,
                   std::int64_t patch, float offset, Address image, const Ranges& parts,
                   unsigned threads, const std::string& level_name) {
  const kernels::ImageOut maps{at<const float>(planes),
                               channels_last,
                               rows,
                               columns,
                               top,
                               left,
                               height,
                               width,
                               patch,
                               offset,
                               at<std::uint8_t>(image)};
  const SimdLevel level = simd_level_of(level_name);
  run_ranges(parts, threads, [&](std::int64_t begin, std::int64_t end) {
    kernels::image_out(maps, begin, end, level);
  });
}

void run_gdn_pack(std::int64_t channels, Address gamma, std::int64_t stride, Address beta,
                  Address packed, const std::string& level_name) {
  const kernels::KernelLevel level = level_of(level_name);
  const GilReleased released;
  kernels::gdn_pack(level, channels, at<const float>(gamma), stride, at<const float>(beta),
                    at<float>(packed));
}

void run_gdn(std::int64_t channels, std::int64_t positions, Address x, const MapStrides& x_strides,
             Address out, const MapStrides& out_strides, bool inverse, Address packed,
             const ImageRanges& parts, unsigned threads, const std::string& level_name) {
  const kernels::KernelLevel level = level_of(level_name);
  const std::int64_t size = channels * positions;
  run_ranges(parts, threads, [&](std::int64_t image, std::int64_t begin, std::int64_t end) {
    const kernels::GdnMaps maps{channels,
                                at<const float>(x) + image * size,
                                x_strides[0],
                                x_strides[1],
                                at<float>(out) + image * size,
                                out_strides[0],
                                out_strides[1],
                                inverse};
    kernels::gdn(level, maps, at<const float>(packed), begin, end);
  });
}

}  // namespace

void bind_codec_kernels(py::module_& module) {
  module.def("gdn_packed_size", [](std::int64_t channels, const std::string& level) {
    return kernels::gdn_packed_size(level_of(level), channels);
  });
  module.def("gdn_pack", &run_gdn_pack);
  module.def("gdn", &run_gdn);
  module.def(
      "kernel_level", [] { return kernels::kernel_level_name(level_of("auto")); },
      "The level that floating-point kernels run at, one of kernel_levels().");
  module.def("quantize_index", &run_quantize_index);
  module.def("image_in", &run_image_in);
  module.def("image_out", &run_image_out);
  module.def(
      "quantize", &quantize, py::arg("values"), py::arg("gain") = py::none(),
      py::arg("mean") = py::none(),
      "Symbols int32 of float32 (..., M) times gain (M,) minus mean (M,) or (..., M), rounded half "
      "to even and clamped to ±2^17; and how many of the values were not finite.");
}

}  // namespace icmh::bindings
