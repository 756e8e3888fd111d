// The parts of icmh_rt._C: one function each adds its names to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace icmh::bindings {

void bind_adapter_ops(pybind11::module_& module);
void bind_common(pybind11::module_& module);
void bind_integer_network(pybind11::module_& module);
void bind_codec_kernels(pybind11::module_& module);
void bind_layers(pybind11::module_& module);
void bind_rans(pybind11::module_& module);
void bind_rans_compat(pybind11::module_& module);
void bind_sfma(pybind11::module_& module);

}  // namespace icmh::bindings
