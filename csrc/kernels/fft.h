// Plans of the discrete Fourier transform that SFMA is built around (kernels/fft_loops.h).
//
// A library's transform goes through memory once for its rows and once for its columns and knows
// nothing of what comes before and behind; here a vector holds the same place of as many rows (or
// columns) as it has lanes, so that every butterfly is straight vector code.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace icmh::kernels {

// The largest prime factor of a length that has a plan: its butterfly takes its square of work.
constexpr std::int64_t kMaxFftFactor = 31;
constexpr std::int64_t kMaxFftLength = 1 << 16;

// Stockham's transform of decimation in frequency: pass after pass from one buffer to the other,
// in order without a reordering. With n values left in each of s interleaved transforms, a pass of
// radix r combines x[q + s (p + k n/r)], k < r, into y[q + s (r p + j)] times exp(-2 pi i p j / n).
struct FftPlan {
  std::int64_t length;
  std::vector<std::int32_t> radices;
  // For each pass, for each p < n / r, the r - 1 factors of j = 1 ... r - 1: real, imaginary.
  std::vector<float> twiddles;
  // For each pass whose radix is not 2, 3, 4 or 5 (0 otherwise): where in `roots` its r numbers
  // exp(-2 pi i k / r) are.
  std::vector<std::int64_t> root_places;
  std::vector<float> roots;
};

// Null for a length of less than 1, above kMaxFftLength or with a prime factor above
// kMaxFftFactor. Plans are kept and shared by all threads.
std::shared_ptr<const FftPlan> fft_plan(std::int64_t length);

}  // namespace icmh::kernels
