// The pybind11 module icmh_rt._C. What is in this folder validates arguments and releases the GIL,
// nothing else: the work happens in the Python-free sources.
#include "bindings/parts.h"
#include "common/simd.h"
#include "common/thread_pool.h"

namespace {

// Refuses a wish that cannot be granted when the module loads, the one moment that every user of it
// passes through, instead of running on with another level or number of threads than asked for.
// Both variables are then read for good, before the program has a second thread in here.
void read_environment() {
  for (const icmh::Status& status :
       {icmh::check_simd_environment(), icmh::check_threads_environment()}) {
    if (!status.is_ok()) throw pybind11::import_error(status.message());
  }
  (void)icmh::simd_level();
  (void)icmh::num_threads();
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  read_environment();
  module.doc() = "Native parts of icmh_rt; import it through icmh_rt._native.";
  icmh::bindings::bind_adapter_ops(module);
  icmh::bindings::bind_common(module);
  icmh::bindings::bind_integer_network(module);
  icmh::bindings::bind_codec_kernels(module);
  icmh::bindings::bind_layers(module);
  icmh::bindings::bind_rans(module);
  icmh::bindings::bind_rans_compat(module);
  icmh::bindings::bind_sfma(module);
}
