// Arrays and buffers at the border to Python: exact views, checked, never converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>

#include "common/span.h"

namespace icmh::bindings {

namespace py = pybind11;

// A view of any C-contiguous buffer (bytes, bytearray, memoryview, numpy array) as bytes.
struct ByteView {
  py::buffer_info info;
  const std::uint8_t* data;
  std::size_t size;
};

inline ByteView view_bytes(const py::buffer& buffer) {
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

// Checks that `value` is a C-contiguous array of exactly this dtype and shape; -1 is any length.
template <class T>
py::array_t<T, py::array::c_style> exact_array(const py::handle& value, const char* name,
                                               std::initializer_list<py::ssize_t> shape) {
  using Array = py::array_t<T, py::array::c_style>;
  if (!py::isinstance<Array>(value)) {
    const py::object dtype = py::dtype::of<T>();
    throw py::type_error(std::string(name) + " must be a C-contiguous " +
                         std::string(py::str(dtype)) + " array");
  }
  auto array = py::reinterpret_borrow<Array>(value);
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (const py::ssize_t length : shape) {
    if (fits && length >= 0 && array.shape(axis) != length) fits = false;
    ++axis;
  }
  if (!fits) {
    throw py::value_error(std::string(name) + " has another shape than its layer or table needs");
  }
  return array;
}

template <class T>
Span<const T> span_of(const py::array_t<T, py::array::c_style>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

}  // namespace icmh::bindings
