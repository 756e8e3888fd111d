#include "kernels/adapter_ops.h"

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

// An address, and the strides of channel, row and column.
using PyMap = std::array<std::int64_t, 4>;

kernels::ConstMap const_map(const PyMap& map) {
  return {in(static_cast<std::uintptr_t>(map[0])), map[1], map[2], map[3]};
}

kernels::Map mutable_map(const PyMap& map) {
  return {out(static_cast<std::uintptr_t>(map[0])), map[1], map[2], map[3]};
}

kernels::Projection projection_of(const PyMap& first, std::int64_t first_inputs,
                                  const PyMap& second, std::int64_t second_inputs,
                                  const PyMap& residual, std::uintptr_t weight,
                                  std::uintptr_t bias, std::int64_t outputs, float factor,
                                  const PyMap& result) {
  if (first_inputs < 1 || second_inputs < 0 || outputs < 1) {
    throw py::value_error("a projection has channels on both sides");
  }
  return {const_map(first), const_map(second), const_map(residual), first_inputs,
          second_inputs,    outputs,           in(weight),          in(bias),
          factor,           mutable_map(result)};
}

}  // namespace

void bind_adapter_ops(py::module_& module) {
  module.def("project_pack", [](std::int64_t first_inputs, std::int64_t second_inputs,
                                std::uintptr_t weight, std::uintptr_t bias, std::int64_t outputs,
                                float factor, std::uintptr_t packed, const std::string& name) {
    const KernelLevel level = level_of(name);
    const auto projection = projection_of({}, first_inputs, {}, second_inputs, {}, weight, bias,
                                          outputs, factor, {});
    // Without memory it says how much it needs.
    if (packed != 0) kernels::project_pack(level, projection, out(packed));
    return kernels::project_packed_size(level, projection);
  });
  module.def("project", [](const PyMap& first, std::int64_t first_inputs, const PyMap& second,
                           std::int64_t second_inputs, const PyMap& residual,
                           std::uintptr_t packed, std::int64_t outputs, const PyMap& result,
                           const Ranges& parts, unsigned threads, const std::string& name) {
    const KernelLevel level = level_of(name);
    const auto projection = projection_of(first, first_inputs, second, second_inputs, residual, 0,
                                          0, outputs, 1.0f, result);
    run_ranges(parts, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::project(level, projection, in(packed), begin, end);
    });
  });
  module.def("modulate", [](const PyMap& x, const PyMap& other,
                            const std::array<std::int64_t, 3>& sizes, std::uintptr_t weight,
                            std::uintptr_t bias, const PyMap& result, const Ranges& rows,
                            unsigned threads, const std::string& name) {
    const KernelLevel level = level_of(name);
    const kernels::Modulation modulation{const_map(x), const_map(other), sizes[0],
                                         sizes[1],     sizes[2],         in(weight),
                                         in(bias),     mutable_map(result)};
    run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::modulate(level, modulation, begin, end);
    });
  });
  module.def("frequency_gate", [](std::uintptr_t spectrum, const std::array<std::int64_t, 3>& sizes,
                                  const std::array<std::uintptr_t, 4>& weights,
                                  std::uintptr_t result, const Ranges& rows, unsigned threads,
                                  const std::string& name) {
    const KernelLevel level = level_of(name);
    const kernels::FrequencyGate gate{in(spectrum),   sizes[0],       sizes[1],
                                      sizes[2],       in(weights[0]), in(weights[1]),
                                      in(weights[2]), in(weights[3]), out(result)};
    run_ranges(rows, threads, [&](std::int64_t begin, std::int64_t end) {
      kernels::frequency_gate(level, gate, begin, end);
    });
  });
}

}  // namespace icmh::bindings
