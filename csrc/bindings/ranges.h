// Parts of a loop that threads share, as Python gives them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bindings/gil.h"
#include "common/openmp.h"

namespace icmh::bindings {

// (begin, end) each.
using Ranges = std::vector<std::array<std::int64_t, 2>>;

// (image, begin, end) each.
using ImageRanges = std::vector<std::array<std::int64_t, 3>>;

inline void check_ranges(const Ranges& ranges, std::int64_t end) {
  for (const auto& [first, last] : ranges) {
    if (first < 0 || last > end) throw pybind11::value_error("a part is outside the map");
  }
}

// work(*range) of every range, on up to `threads` threads, without the GIL.
template <typename RangeList, typename Work>
void run_ranges(const RangeList& ranges, unsigned threads, const Work& work) {
  const GilReleased released;
  parallel_for_kernels(ranges.size(), threads,
                       [&](std::size_t i) { std::apply(work, ranges[i]); });
}

}  // namespace icmh::bindings
