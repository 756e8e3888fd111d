#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/parts.h"
#include "common/crc32c.h"
#include "common/openmp.h"
#include "common/pages.h"
#include "common/simd.h"
#include "common/thread_pool.h"

namespace icmh::bindings {

void bind_common(py::module_& module) {
  module.def(
      "crc32c",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        const GilReleased released;
        return crc32c(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "CRC-32C of a contiguous buffer, continued from `initial`.");
  module.def(
      "crc32c_portable",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        const GilReleased released;
        return crc32c_portable(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "The table-driven CRC-32C that crc32c must equal; for the tests.");

  module.def(
      "simd_levels",
      [] {
        py::list names;
        for (const SimdLevel level : kSimdLevels) {
          if (simd_level_supported(level)) names.append(simd_level_name(level));
        }
        return names;
      },
      "Names of the instruction-set levels that this build has and this CPU can run, slowest "
      "first.");
  module.def(
      "simd_level", [] { return simd_level_name(simd_level()); },
      "The level in use: the last of simd_levels(), or what ICMH_SIMD named.");

  module.def(
      "advise_huge_pages",
      [](std::uintptr_t address, std::size_t size) {
        advise_huge_pages(reinterpret_cast<void*>(address), size);
      },
      py::arg("address"), py::arg("size"),
      "Asks the system for huge pages under memory that is not touched yet.");

  module.def("use_openmp", &use_openmp, py::arg("library"),
             "Runs the kernels' loops on the threads of that OpenMP runtime, a name or path, if it is "
             "loaded; False if not.");
  module.def("openmp_in_use", &openmp_in_use);

  module.attr("MAX_THREADS") = kMaxThreads;
  module.def("num_threads", &num_threads, "Threads that one loop may use, the caller's included.");
  module.def("set_num_threads", &set_num_threads, py::arg("threads"),
             "Changes num_threads() for the process; 0 goes back to the default.");
}

}  // namespace icmh::bindings
