// Depthwise windows over rows of panels, and what follows them.
#pragma once

#include "kernels/panels.h"

namespace icmh::kernels {
namespace {

// The kSide x kSide window of one channel over a panel: `rows` point at the first column of the
// window of the panel's first position.
template <int kSide>
ICMH_OP void window_sums(const float* const* rows, int64_t offset, const float* weight, float bias,
                         Vector::F* sums) {
  using V = Vector;
#pragma GCC unroll 4
  for (int v = 0; v < V::kTileVectors; ++v) sums[v] = V::all(bias);
#pragma GCC unroll 5
  for (int u = 0; u < kSide; ++u) {
    const float* const in = rows[u] + offset;
#pragma GCC unroll 5
    for (int t = 0; t < kSide; ++t) {
      const V::F tap = V::all(weight[kSide * u + t]);
#pragma GCC unroll 4
      for (int v = 0; v < V::kTileVectors; ++v) {
        sums[v] = V::fma(tap, V::load(in + v * V::kWidth + t), sums[v]);
      }
    }
  }
}

// relu(dw5x5 * gate) of one panel of all channels, whose rows and gates are so many floats apart.
ICMH_TARGET inline void modulate_panel(const float* const* rows, int64_t channels, int64_t stride,
                                       const float* weights, const float* biases,
                                       const float* gates, int64_t gates_stride, float* out) {
  using V = Vector;
  for (int64_t c = 0; c < channels; ++c) {
    V::F sums[V::kTileVectors];
    window_sums<5>(rows, c * stride, weights + 25 * c, biases[c], sums);
#pragma GCC unroll 4
    for (int v = 0; v < V::kTileVectors; ++v) {
      const V::F gate = V::load(gates + c * gates_stride + v * V::kWidth);
      V::store(out + c * kPanel + v * V::kWidth, relu_of(V::mul(sums[v], gate)));
    }
  }
}

// relu(dw3x3 of the amplitudes) of one panel of all channels.
ICMH_TARGET inline void smooth_panel(const float* const* rows, int64_t channels, int64_t stride,
                                     const float* weights, const float* biases, float* out) {
  using V = Vector;
  for (int64_t c = 0; c < channels; ++c) {
    V::F sums[V::kTileVectors];
    window_sums<3>(rows, c * stride, weights + 9 * c, biases[c], sums);
#pragma GCC unroll 4
    for (int v = 0; v < V::kTileVectors; ++v) {
      V::store(out + c * kPanel + v * V::kWidth, relu_of(sums[v]));
    }
  }
}

// A row of amplitudes: a zero, the columns, and zeros until a whole panel has its neighbours.
constexpr int64_t amplitude_stride(int64_t columns) { return rounded_up(columns, kPanel) + 32; }

// The amplitudes of one row of a channel from its real and imaginary parts, which have zeros
// behind the last column as far as a vector reaches.
ICMH_OP void amplitude_row(const float* re, const float* im, int64_t columns, float* row) {
  using V = Vector;
  const int64_t stride = amplitude_stride(columns);
  row[0] = 0.0f;
  int64_t j = 0;
  for (; j < columns; j += V::kWidth) {
    const V::F a = V::load(re + j), b = V::load(im + j);
    V::store(row + 1 + j, V::sqrt(V::fma(a, a, V::mul(b, b))));
  }
  for (; j < stride - 1; ++j) row[1 + j] = 0.0f;
}

}  // namespace
}  // namespace icmh::kernels
