#include "kernels/sfma.h"

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>

#include "bindings/addresses.h"
#include "bindings/parts.h"
#include "bindings/ranges.h"

namespace py = pybind11;

namespace icmh::bindings {
namespace {

using kernels::KernelLevel;
using kernels::SfmaSizes;

using Strides = std::array<std::int64_t, 3>;  // channel, row, column

SfmaSizes sizes_of(const py::tuple& sizes) {
  if (sizes.size() != 5) throw py::value_error("sizes are channels, middle, height, width, factor");
  SfmaSizes result{py::cast<std::int64_t>(sizes[0]), py::cast<std::int64_t>(sizes[1]),
                   py::cast<std::int64_t>(sizes[2]), py::cast<std::int64_t>(sizes[3]),
                   py::cast<float>(sizes[4])};
  if (result.channels < 1 || result.middle < 1 || result.height < 1 || result.width < 1) {
    throw py::value_error("sizes must be 1 or more");
  }
  return result;
}

void check_planes(const SfmaSizes& sizes, const Ranges& parts) {
  check_ranges(parts, sizes.middle);
  if (!kernels::sfma_has_fft(sizes)) throw py::value_error("there is no transform of this size");
}

}  // namespace

void bind_sfma(py::module_& module) {
  module.def(
      "kernel_levels",
      [] {
        py::list names;
        for (const KernelLevel level : kernels::kKernelLevels) {
          if (kernels::kernel_level_supported(level)) names.append(kernel_level_name(level));
        }
        return names;
      },
      "Names of the levels that the floating-point kernels can run at here, slowest first.");
  module.def("sfma_packed_size", [](const py::tuple& sizes, const std::string& level) {
    return kernels::sfma_packed_size(level_of(level), sizes_of(sizes));
  });
  module.def("sfma_pack", [](const py::tuple& sizes, const std::array<std::uintptr_t, 16>& w,
                             std::uintptr_t packed, const std::string& level) {
    const kernels::SfmaWeights weights = {in(w[0]),  in(w[1]),  in(w[2]),  in(w[3]),
                                          in(w[4]),  in(w[5]),  in(w[6]),  in(w[7]),
                                          in(w[8]),  in(w[9]),  in(w[10]), in(w[11]),
                                          in(w[12]), in(w[13]), in(w[14]), in(w[15])};
    kernels::sfma_pack(level_of(level), sizes_of(sizes), weights, out(packed));
  });
  module.def("sfma_down", [](const py::tuple& sizes, std::uintptr_t packed, std::uintptr_t x,
                             const Strides& strides, const Ranges& rows, unsigned threads,
                             std::uintptr_t planes, const std::string& level) {
    const SfmaSizes s = sizes_of(sizes);
    check_ranges(rows, s.height);
    const KernelLevel simd = level_of(level);
    const kernels::ConstMap map{in(x), strides[0], strides[1], strides[2]};
    run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::sfma_down(simd, s, in(packed), map, begin, end, out(planes));
    });
  });
  module.def("sfma_has_fft",
             [](const py::tuple& sizes) { return kernels::sfma_has_fft(sizes_of(sizes)); });
  module.def("sfma_spectrum_size", [](const py::tuple& sizes, const std::string& level) {
    return kernels::sfma_spectrum_size(level_of(level), sizes_of(sizes));
  });
  module.def("sfma_analyse", [](const py::tuple& sizes, std::uintptr_t planes, const Ranges& parts,
                                unsigned threads, std::uintptr_t spectrum,
                                const std::string& level) {
    const SfmaSizes s = sizes_of(sizes);
    check_planes(s, parts);
    const KernelLevel simd = level_of(level);
    run_ranges(parts, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::sfma_analyse(simd, s, in(planes), begin, end, out(spectrum));
    });
  });
  module.def("sfma_synthesise", [](const py::tuple& sizes, std::uintptr_t spectrum,
                                   const Ranges& parts, unsigned threads, std::uintptr_t planes,
                                   const std::string& level) {
    const SfmaSizes s = sizes_of(sizes);
    check_planes(s, parts);
    const KernelLevel simd = level_of(level);
    run_ranges(parts, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::sfma_synthesise(simd, s, out(spectrum), begin, end, out(planes));
    });
  });
  module.def("sfma_gate", [](const py::tuple& sizes, std::uintptr_t packed,
                             std::uintptr_t spectrum, const Ranges& rows, unsigned threads,
                             std::uintptr_t gated, const std::string& level) {
    const SfmaSizes s = sizes_of(sizes);
    check_ranges(rows, s.height);
    const KernelLevel simd = level_of(level);
    run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::sfma_gate(simd, s, in(packed), in(spectrum), begin, end, out(gated));
    });
  });
  module.def("sfma_up", [](const py::tuple& sizes, std::uintptr_t packed, std::uintptr_t x,
                           const Strides& strides, std::uintptr_t planes, const Ranges& rows,
                           unsigned threads, std::uintptr_t result, const Strides& result_strides,
                           const std::string& level) {
    const SfmaSizes s = sizes_of(sizes);
    check_ranges(rows, s.height);
    const KernelLevel simd = level_of(level);
    const kernels::ConstMap map{in(x), strides[0], strides[1], strides[2]};
    const kernels::Map written{out(result), result_strides[0], result_strides[1],
                               result_strides[2]};
    run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::sfma_up(simd, s, in(packed), map, in(planes), begin, end, written);
    });
  });
}

}  // namespace icmh::bindings
