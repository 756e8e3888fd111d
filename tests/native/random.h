// Random numbers for the tests: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Integers only and
// no std::distribution, whose results differ between libraries: the same cases on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace icmh::tests {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // 0 to bound - 1, for 1 <= bound <= 2^32; biased by less than bound / 2^32.
  std::uint32_t below(std::uint64_t bound) {
    return static_cast<std::uint32_t>(((next() >> 32) * bound) >> 32);
  }

  // first to last, both included.
  std::int64_t between(std::int64_t first, std::int64_t last) {
    return first + std::int64_t{below(static_cast<std::uint64_t>(last - first) + 1)};
  }

  bool one_in(std::uint32_t n) { return below(n) == 0; }

  template <typename T, std::size_t N>
  const T& of(const T (&choices)[N]) {
    return choices[below(N)];
  }

 private:
  std::uint64_t state_;
};

}  // namespace icmh::tests
