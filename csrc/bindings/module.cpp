// The pybind11 module icmh_rt._C. What is in this folder validates arguments and releases the GIL,
// nothing else: the work happens in the Python-free sources.
#include "bindings/parts.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native parts of icmh_rt; import it through icmh_rt._native.";
  icmh::bindings::bind_common(module);
  icmh::bindings::bind_integer_network(module);
  icmh::bindings::bind_rans(module);
}
