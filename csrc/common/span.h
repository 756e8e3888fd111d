// A pointer with its length (std::span is C++20).
#pragma once

#include <cstddef>

namespace icmh {

template <typename T>
struct Span {
  T* data = nullptr;
  std::size_t size = 0;

  T& operator[](std::size_t i) const { return data[i]; }
  T* begin() const { return data; }
  T* end() const { return data + size; }
  Span subspan(std::size_t first, std::size_t count) const { return {data + first, count}; }
};

}  // namespace icmh
