// The matrix product that the fused kernels are built around, over a tile that lies in a cache.
//
// A panel is a matrix of `depth` rows of kPanel floats: kPanel neighbouring positions (or columns),
// one row a channel, contiguous. Weights are packed by `pack_rows`: kTileRows output channels at a
// time, depth by depth. The inner loop holds a tile of kTileRows times kPanel sums in registers,
// reads a row of the panel and broadcasts kTileRows weights; panel and weights stream from the
// first-level cache.
#pragma once

#include "kernels/vector.h"

namespace icmh::kernels {
namespace {

constexpr int kPanel = Vector::kTileVectors * Vector::kWidth;

constexpr int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Floats that pack_rows writes.
constexpr int64_t packed_size(int64_t rows, int64_t depth) {
  return rounded_up(rows, Vector::kTileRows) * depth;
}

// Packs `scale` times the matrix weight (rows, depth), whose rows are `stride` floats apart; rows
// that are missing to a whole tile are zeros.
inline void pack_rows(const float* weight, int64_t rows, int64_t depth, int64_t stride, float scale,
                      float* packed) {
  constexpr int64_t step = Vector::kTileRows;
  for (int64_t first = 0; first < rows; first += step) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < step; ++i) {
        *packed++ = first + i < rows ? scale * weight[(first + i) * stride + k] : 0.0f;
      }
    }
  }
}

// Where rows of a product go. Past the caches: what is large, and not read soon.
struct Rows {
  float* data;
  int64_t stride;
  bool past_caches = false;
};

// Whether `stream` may store rows there.
inline bool can_stream(const float* data, int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(data) % (Vector::kWidth * sizeof(float)) == 0 &&
         stride % Vector::kWidth == 0;
}

ICMH_OP void store_row(const Rows& out, int64_t place, Vector::F x, int64_t left) {
  if (out.past_caches && left >= Vector::kWidth) {
    Vector::stream(out.data + place, x);
  } else {
    store_some(out.data + place, x, left);
  }
}

// out[i][j] = bias[i] + residual[i][j] + sum_k weight[i][k] panel[k][j] for one tile of rows, the
// first `rows` of which are stored, and the first `columns` columns. residual may be null.
ICMH_OP void multiply_tile(const float* packed, const float* panel, int64_t depth,
                           const float* bias, const float* residual, int64_t residual_stride,
                           int64_t rows, int64_t columns, const Rows& out) {
  using V = Vector;
  V::F sums[V::kTileRows][V::kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < V::kTileRows; ++i) {
    const V::F start = i < rows && bias != nullptr ? V::all(bias[i]) : V::zero();
#pragma GCC unroll 4
    for (int v = 0; v < V::kTileVectors; ++v) sums[i][v] = start;
  }
  for (int64_t k = 0; k < depth; ++k) {
    V::F row[V::kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < V::kTileVectors; ++v) row[v] = V::load(panel + v * V::kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < V::kTileRows; ++i) {
      const V::F weight = V::all(packed[i]);
#pragma GCC unroll 4
      for (int v = 0; v < V::kTileVectors; ++v) sums[i][v] = V::fma(weight, row[v], sums[i][v]);
    }
    packed += V::kTileRows;
    panel += kPanel;
  }
#pragma GCC unroll 8
  for (int i = 0; i < V::kTileRows; ++i) {
    if (i >= rows) break;
#pragma GCC unroll 4
    for (int v = 0; v < V::kTileVectors; ++v) {
      const int64_t left = columns - v * V::kWidth;
      V::F value = sums[i][v];
      if (residual != nullptr) {
        value = V::add(value, load_some(residual + i * residual_stride + v * V::kWidth, left));
      }
      store_row(out, i * out.stride + v * V::kWidth, value, left);
    }
  }
}

// The same for all `rows` of the packed weights.
ICMH_TARGET inline void multiply_panel(const float* packed, const float* panel, int64_t rows,
                                       int64_t depth, const float* bias, const float* residual,
                                       int64_t residual_stride, int64_t columns,
                                       const Rows& out) {
  for (int64_t first = 0; first < rows; first += Vector::kTileRows) {
    multiply_tile(packed + first * depth, panel, depth, bias == nullptr ? nullptr : bias + first,
                  residual == nullptr ? nullptr : residual + first * residual_stride,
                  residual_stride, rows - first, columns,
                  {out.data + first * out.stride, out.stride, out.past_caches});
  }
}

}  // namespace
}  // namespace icmh::kernels
