// Planes of symbols and indexes at the border, and what becomes of a Status there.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "bindings/arrays.h"
#include "common/status.h"

namespace icmh::bindings {

// Raised for kCorrupt, as _C.CorruptStream; icmh_rt.rans turns it into BitstreamError.
class CorruptStream : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void throw_unless_ok(const Status& status) {
  switch (status.kind()) {
    case StatusKind::kOk:
      return;
    case StatusKind::kBadArgument:
      throw py::value_error(status.message());
    case StatusKind::kCorrupt:
      throw CorruptStream(status.message());
  }
}

// Calls work(array) with `value` as an array_t of whichever of the types it has.
template <class... Types, class Work>
Status visit_array(const py::handle& value, const char* wanted, const Work& work) {
  Status status = Status::ok();
  bool found = false;
  const auto attempt = [&](auto* type) {
    using Array = py::array_t<std::remove_pointer_t<decltype(type)>, py::array::c_style>;
    if (found || !py::isinstance<Array>(value)) return;
    found = true;
    status = work(py::reinterpret_borrow<Array>(value));
  };
  (attempt(static_cast<Types*>(nullptr)), ...);
  if (!found) throw py::type_error(wanted);
  return status;
}

template <class Work>
Status visit_indexes(const py::handle& indexes, const Work& work) {
  return visit_array<std::uint8_t, std::uint16_t, std::int32_t>(
      indexes, "indexes must be a C-contiguous uint8, uint16 or int32 array", work);
}

template <class Work>
Status visit_symbols(const py::handle& symbols, const Work& work) {
  return visit_array<std::int8_t, std::int16_t, std::int32_t>(
      symbols, "symbols must be a C-contiguous int8, int16 or int32 array", work);
}

}  // namespace icmh::bindings
