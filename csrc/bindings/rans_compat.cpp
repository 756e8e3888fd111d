#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/parts.h"
#include "bindings/planes.h"
#include "rans/compat.h"

namespace icmh::bindings {
namespace {

namespace compat = rans::compat;

// Calls work(symbols, indexes) without the GIL.
template <typename Work>
void with_planes(const py::handle& symbols, const py::handle& indexes, const Work& work) {
  throw_unless_ok(visit_symbols(symbols, [&](const auto& symbol_array) {
    return visit_indexes(indexes, [&](const auto& index_array) {
      const auto symbol_span = span_of(symbol_array);
      const auto index_span = span_of(index_array);
      const GilReleased released;
      return work(symbol_span, index_span);
    });
  }));
}

py::bytes to_bytes(const std::vector<std::uint8_t>& data) {
  return py::bytes(reinterpret_cast<const char*>(data.data()), data.size());
}

compat::Tables build_tables(const py::object& cdfs, const py::object& starts,
                            const py::object& lengths, const py::object& offsets,
                            std::int64_t expected_symbols) {
  const auto cdf_array = exact_array<std::int32_t>(cdfs, "cdfs", {-1});
  const auto start_array = exact_array<std::int64_t>(starts, "starts", {-1});
  const auto length_array = exact_array<std::int32_t>(lengths, "lengths", {-1});
  const auto offset_array = exact_array<std::int32_t>(offsets, "offsets", {-1});
  const std::size_t expected = expected_symbols < 0 ? compat::Tables::kManySymbols
                                                    : static_cast<std::size_t>(expected_symbols);
  compat::Tables tables;
  Status status = Status::ok();
  {
    const GilReleased released;
    status = compat::Tables::build(span_of(cdf_array), span_of(start_array), span_of(length_array),
                                   span_of(offset_array), expected, &tables);
  }
  throw_unless_ok(status);
  return tables;
}

py::bytes encode(const py::object& symbols, const py::object& indexes,
                 const compat::Tables& tables) {
  std::vector<std::uint8_t> stream;
  with_planes(symbols, indexes, [&](auto symbol_span, auto index_span) {
    return compat::encode(symbol_span, index_span, tables, &stream);
  });
  return to_bytes(stream);
}

// An encoder that several Python threads may share; each call is one step.
class LockedEncoder {
 public:
  void append(const py::object& symbols, const py::object& indexes, const compat::Tables& tables) {
    with_planes(symbols, indexes, [&](auto symbol_span, auto index_span) {
      const std::lock_guard<std::mutex> lock(mutex_);
      return encoder_.append(symbol_span, index_span, tables);
    });
  }

  py::bytes flush() {
    std::vector<std::uint8_t> stream;
    {
      const GilReleased released;
      const std::lock_guard<std::mutex> lock(mutex_);
      encoder_.flush(&stream);
    }
    return to_bytes(stream);
  }

 private:
  std::mutex mutex_;
  compat::Encoder encoder_;
};

// A decoder that several Python threads may share, with the stream that it reads.
class LockedDecoder {
 public:
  explicit LockedDecoder(const py::buffer& data) {
    const ByteView view = view_bytes(data);
    data_.assign(view.data, view.data + view.size);
    throw_unless_ok(compat::Decoder::open({data_.data(), data_.size()}, &decoder_));
  }

  py::array_t<std::int32_t> decode(const py::object& indexes, const compat::Tables& tables) {
    py::array_t<std::int32_t> symbols;
    throw_unless_ok(visit_indexes(indexes, [&](const auto& index_array) {
      const auto index_span = span_of(index_array);
      symbols = py::array_t<std::int32_t>(static_cast<py::ssize_t>(index_span.size));
      const Span<std::int32_t> output{symbols.mutable_data(), index_span.size};
      const GilReleased released;
      const std::lock_guard<std::mutex> lock(mutex_);
      return decoder_.decode(index_span, tables, output);
    }));
    return symbols;
  }

  bool at_end() {
    const GilReleased released;
    const std::lock_guard<std::mutex> lock(mutex_);
    return decoder_.at_end();
  }

 private:
  std::mutex mutex_;
  std::vector<std::uint8_t> data_;
  compat::Decoder decoder_;
};

}  // namespace

void bind_rans_compat(py::module_& module) {
  py::class_<compat::Tables>(module, "CompatTables",
                             "CompressAI's CDF tables ready for coding; immutable.")
      .def(py::init(&build_tables), py::arg("cdfs"), py::arg("starts"), py::arg("lengths"),
           py::arg("offsets"), py::arg("expected_symbols") = -1,
           "cdfs int32 (N,); starts int64, lengths int32, offsets int32 (T,): row i is the "
           "lengths[i] entries of cdfs from starts[i].");
  module.def("compat_encode", &encode, py::arg("symbols"), py::arg("indexes"), py::arg("tables"),
             "symbols int8, int16 or int32, indexes uint8, uint16 or int32, of equal size -> "
             "bytes.");
  py::class_<LockedEncoder>(module, "CompatEncoder", "Several planes in one stream.")
      .def(py::init<>())
      .def("append", &LockedEncoder::append, py::arg("symbols"), py::arg("indexes"),
           py::arg("tables"))
      .def("flush", &LockedEncoder::flush);
  py::class_<LockedDecoder>(module, "CompatDecoder", "Several planes from one stream.")
      .def(py::init<const py::buffer&>(), py::arg("data"))
      .def("decode", &LockedDecoder::decode, py::arg("indexes"), py::arg("tables"),
           "indexes of any shape -> int32 (indexes.size,).")
      .def_property_readonly("at_end", &LockedDecoder::at_end);
}

}  // namespace icmh::bindings
