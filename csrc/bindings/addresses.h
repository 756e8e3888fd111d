// Addresses of PyTorch's tensors at the border, 0 for none: icmh_rt/kernels/_cpu_*.py have checked
// what they hold. The module needs no torch to build or to load.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <string>

#include "common/status.h"
#include "kernels/level.h"

namespace icmh::bindings {

using Address = std::uintptr_t;
template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}
// Of a map's channels and of its positions.
using MapStrides = std::array<std::int64_t, 2>;

inline const float* in(std::uintptr_t address) { return reinterpret_cast<const float*>(address); }
inline float* out(std::uintptr_t address) { return reinterpret_cast<float*>(address); }

inline kernels::KernelLevel level_of(const std::string& name) {
  kernels::KernelLevel level{};
  const Status status = kernels::kernel_level_of_name(name, &level);
  if (!status.is_ok()) throw pybind11::value_error(status.message());
  return level;
}

}  // namespace icmh::bindings
