#include "common/crc32c.h"

#include "bindings/arrays.h"
#include "bindings/parts.h"

namespace icmh::bindings {

void bind_common(py::module_& module) {
  module.def(
      "crc32c",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return crc32c(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "CRC-32C of a contiguous buffer, continued from `initial`.");
  module.def(
      "crc32c_portable",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return crc32c_portable(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "The table-driven CRC-32C that crc32c must equal; for the tests.");
}

}  // namespace icmh::bindings
