// The pybind11 module icmh_rt._C: validates arguments and releases the GIL, nothing else.
// Each part of csrc has one bind_* function; the work happens in the Python-free sources.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>

#include "common/crc32c.h"

namespace py = pybind11;

namespace {

// A view of any C-contiguous buffer (bytes, bytearray, memoryview, numpy array) as bytes.
struct ByteView {
  py::buffer_info info;
  const std::uint8_t* data;
  std::size_t size;
};

ByteView view_bytes(const py::buffer& buffer) {
  py::buffer_info info = buffer.request();
  py::ssize_t expected_stride = info.itemsize;
  for (py::ssize_t axis = info.ndim - 1; axis >= 0; --axis) {
    if (info.shape[axis] > 1 && info.strides[axis] != expected_stride) {
      throw py::value_error("the buffer is not C-contiguous; make a contiguous copy first");
    }
    expected_stride *= info.shape[axis];
  }
  const auto* data = static_cast<const std::uint8_t*>(info.ptr);
  const auto size = static_cast<std::size_t>(info.size * info.itemsize);
  return ByteView{std::move(info), data, size};
}

void bind_common(py::module_& module) {
  module.def(
      "crc32c",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return icmh::crc32c(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "CRC-32C of a contiguous buffer, continued from `initial`.");
  module.def(
      "crc32c_portable",
      [](const py::buffer& buffer, std::uint32_t initial) {
        const ByteView view = view_bytes(buffer);
        py::gil_scoped_release release;
        return icmh::crc32c_portable(view.data, view.size, initial);
      },
      py::arg("buffer"), py::arg("initial") = 0,
      "The table-driven CRC-32C that crc32c must equal; for the tests.");
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native parts of icmh_rt; import it through icmh_rt._native.";
  bind_common(module);
}
