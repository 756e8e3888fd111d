// The loops of kernels/sfma.h for one level of kernels/vector.h.
#pragma once

#include "kernels/fft_loops.h"
#include "kernels/product.h"
#include "kernels/sfma.h"
#include "kernels/sfma_level.h"
#include "kernels/windows.h"

namespace icmh::kernels {
namespace {

constexpr int64_t kBlockPanels = 8;  // of a row that go through pass `up` together
constexpr int64_t kBlock = kBlockPanels * kPanel;
constexpr int64_t kReach = 2;  // of the 5x5 window to each side

// Where in the packed weights everything lies.
struct Packed {
  int64_t down, planes, dw5, dw3, inter, up;
  int64_t down_bias, planes_bias, dw5_bias, dw3_bias, inter_bias, up_bias;
  int64_t size;

  explicit Packed(const SfmaSizes& s) {
    int64_t end = 0;
    const auto take = [&end](int64_t floats) {
      const int64_t place = end;
      end += rounded_up(floats, 16);
      return place;
    };
    down = take(Product::size(2 * s.middle, s.channels));
    planes = take(Product::size(s.middle, s.channels));
    inter = take(packed_size(s.middle, s.middle));
    up = take(Product::size(s.channels, 2 * s.middle));
    dw5 = take(25 * s.middle);
    dw3 = take(9 * s.middle);
    down_bias = take(2 * s.middle);
    planes_bias = take(s.middle);
    dw5_bias = take(s.middle);
    dw3_bias = take(s.middle);
    inter_bias = take(s.middle);
    up_bias = take(s.channels);
    size = end;
  }
};

int64_t level_packed_size(const SfmaSizes& sizes) { return Packed(sizes).size; }

void level_pack(const SfmaSizes& s, const SfmaLevelWeights& w, float* packed) {
  const Packed at(s);
  Product::pack(w.s_down, 2 * s.middle, s.channels, s.channels, 1.0f, packed + at.down);
  Product::pack(w.f_down, s.middle, s.channels, s.channels, 1.0f, packed + at.planes);
  pack_rows(w.f_inter, s.middle, s.middle, s.middle, 1.0f, packed + at.inter);
  Product::pack(w.up, s.channels, 2 * s.middle, 2 * s.middle, 1.0f, packed + at.up);
  const auto copy = [packed](const float* from, int64_t floats, int64_t to) {
    std::memcpy(packed + to, from, static_cast<std::size_t>(floats) * sizeof(float));
  };
  copy(w.s_dw, 25 * s.middle, at.dw5);
  copy(w.f_dw, 9 * s.middle, at.dw3);
  copy(w.s_down_bias, 2 * s.middle, at.down_bias);
  copy(w.f_down_bias, s.middle, at.planes_bias);
  copy(w.s_dw_bias, s.middle, at.dw5_bias);
  copy(w.f_dw_bias, s.middle, at.dw3_bias);
  copy(w.f_inter_bias, s.middle, at.inter_bias);
  copy(w.up_bias, s.channels, at.up_bias);
}

// -- down ------------------------------------------------------------------------------------------

int64_t level_down_scratch(const SfmaSizes& s) { return kBlock * s.channels; }

ICMH_TARGET void level_down(const SfmaSizes& s, const float* packed, const ConstMap& x,
                            int64_t begin, int64_t end, float* planes, float* scratch) {
  const Product::Session session;
  const Packed at(s);
  const int64_t plane = s.height * s.width;
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < s.width; j += kBlock) {
      const int64_t columns = s.width - j < kBlock ? s.width - j : kBlock;
      pack_panels(x.data + i * x.row + j * x.column, x.channel, x.column, s.channels, columns,
                  scratch);
      for (int64_t p = 0; p < columns; p += kPanel) {
        Product::multiply(packed + at.planes, scratch + p * s.channels, s.middle, s.channels,
                       packed + at.planes_bias, nullptr, 0, columns - p,
                       {planes + i * s.width + j + p, plane});
      }
    }
  }
}

// -- gate ------------------------------------------------------------------------------------------

int64_t level_fft_scratch(const SfmaSizes& s) { return fft_scratch(s.height, s.width); }

int64_t level_spectrum_size(const SfmaSizes& s) {
  return s.middle * s.height * 2 * spectrum_stride(s.width);
}

ICMH_TARGET void level_analyse(const SfmaSizes& s, const FftPlan& rows, const FftPlan& columns,
                               const float* planes, int64_t begin, int64_t end, float* spectrum,
                               float* scratch) {
  const int64_t plane = s.height * s.width, size = s.height * 2 * spectrum_stride(s.width);
  for (int64_t c = begin; c < end; ++c) {
    real_fft(rows, columns, planes + c * plane, spectrum + c * size, scratch);
  }
}

ICMH_TARGET void level_synthesise(const SfmaSizes& s, const FftPlan& rows, const FftPlan& columns,
                                  float* spectrum, int64_t begin, int64_t end, float* planes,
                                  float* scratch) {
  const int64_t plane = s.height * s.width, size = s.height * 2 * spectrum_stride(s.width);
  for (int64_t c = begin; c < end; ++c) {
    real_inverse_fft(rows, columns, spectrum + c * size, planes + c * plane, scratch);
  }
}

int64_t level_gate_scratch(const SfmaSizes& s) {
  return s.middle * (3 * amplitude_stride(s.width / 2 + 1) + 2 * kPanel);
}

ICMH_TARGET inline void amplitudes(const SfmaSizes& s, const float* spectrum, int64_t i,
                                   float* row) {
  const int64_t columns = s.width / 2 + 1;
  const int64_t stride = amplitude_stride(columns), parts = spectrum_stride(s.width);
  if (i < 0 || i >= s.height) {
    std::memset(row, 0, static_cast<std::size_t>(s.middle * stride) * sizeof(float));
    return;
  }
  for (int64_t c = 0; c < s.middle; ++c, row += stride) {
    const float* const re = spectrum + 2 * (c * s.height + i) * parts;
    amplitude_row(re, re + parts, columns, row);
  }
}

ICMH_TARGET void level_gate(const SfmaSizes& s, const float* packed, const float* spectrum,
                            int64_t begin, int64_t end, float* gated, float* scratch) {
  using V = Vector;
  const Packed at(s);
  const int64_t columns = s.width / 2 + 1;
  const int64_t stride = amplitude_stride(columns), parts = spectrum_stride(s.width);
  // The inverse transform's factor comes in here, where every value is multiplied anyway.
  const V::F scale = V::all(1.0f / (static_cast<float>(s.height) * static_cast<float>(s.width)));
  float* const ring = scratch;
  float* const smooth = ring + 3 * s.middle * stride;
  float* const gates = smooth + s.middle * kPanel;
  const auto row_of = [&](int64_t i) { return ring + (i + 3) % 3 * s.middle * stride; };
  amplitudes(s, spectrum, begin - 1, row_of(begin - 1));
  amplitudes(s, spectrum, begin, row_of(begin));
  for (int64_t i = begin; i < end; ++i) {
    amplitudes(s, spectrum, i + 1, row_of(i + 1));
    const float* const rows[3] = {row_of(i - 1), row_of(i), row_of(i + 1)};
    for (int64_t j = 0; j < columns; j += kPanel) {
      const float* const windows[3] = {rows[0] + j, rows[1] + j, rows[2] + j};
      smooth_panel(windows, s.middle, stride, packed + at.dw3, packed + at.dw3_bias, smooth);
      // Never on tiles: a sum of amplitudes can be large, and its error is the gate's.
      multiply_panel(packed + at.inter, smooth, s.middle, s.middle, packed + at.inter_bias, nullptr,
                     0, kPanel, {gates, kPanel});
      for (int64_t c = 0; c < s.middle; ++c) {
        const int64_t place = 2 * (c * s.height + i) * parts + j;
#pragma GCC unroll 4
        for (int v = 0; v < V::kTileVectors; ++v) {
          const int64_t k = v * V::kWidth;
          if (j + k >= columns) break;
          const V::F gate = V::mul(scale, sigmoid_of(V::load(gates + c * kPanel + k)));
          V::store(gated + place + k, V::mul(gate, V::load(spectrum + place + k)));
          V::store(gated + place + parts + k,
                   V::mul(gate, V::load(spectrum + place + parts + k)));
        }
      }
    }
  }
}

// -- up --------------------------------------------------------------------------------------------

constexpr int64_t kFarFloats = 1 << 20;  // of a result that is not in a core's cache when it ends
constexpr int64_t kRingStride = kBlock + kPanel + 16;

int64_t level_up_scratch(const SfmaSizes& s) {
  return 10 * s.middle * kRingStride                  // rows of s_down1 x and of s_down2 x
         + (kBlock + kPanel) * s.channels             // panels of x
         + kPanel * (2 * s.middle + s.channels);      // both branches, out
}

// s_down1 of row i, columns from j - kReach to j + columns + kReach, zero outside the map; behind it
// s_down2 of the same columns if `with_gates`. They share what a product costs beside its sums.
ICMH_TARGET inline void down_row(const SfmaSizes& s, const Packed& at, const float* packed,
                                 const ConstMap& x, int64_t i, int64_t j, int64_t columns,
                                 bool with_gates, float* panels, float* row) {
  if (i < 0 || i >= s.height) {
    std::memset(row, 0, static_cast<std::size_t>(s.middle * kRingStride) * sizeof(float));
    return;
  }
  const int64_t first = j - kReach < 0 ? 0 : j - kReach;
  const int64_t last = j + columns + kReach > s.width ? s.width : j + columns + kReach;
  const int64_t left = first - (j - kReach);
  pack_panels(x.data + i * x.row + first * x.column, x.channel, x.column, s.channels, last - first,
              panels);
  for (int64_t p = 0; p < last - first; p += kPanel) {
    Product::multiply(packed + at.down, panels + p * s.channels,
                      with_gates ? 2 * s.middle : s.middle, s.channels, packed + at.down_bias,
                      nullptr, 0, last - first - p, {row + left + p, kRingStride});
  }
  // What the vectors of the last panel read to the right of the map is zero as well.
  const int64_t used = left + last - first;
  for (int64_t c = 0; c < s.middle; ++c) {
    float* const values = row + c * kRingStride;
    for (int64_t k = 0; k < left; ++k) values[k] = 0.0f;
    for (int64_t k = used; k < rounded_up(columns, kPanel) + 2 * kReach; ++k) values[k] = 0.0f;
  }
}

ICMH_TARGET void level_up(const SfmaSizes& s, const float* packed, const ConstMap& x,
                          const float* planes, int64_t begin, int64_t end, const Map& out,
                          float* scratch) {
  using V = Vector;
  const Product::Session session;
  const Packed at(s);
  const int64_t plane = s.height * s.width;
  float* const ring = scratch;
  float* const panels = ring + 10 * s.middle * kRingStride;
  float* const both = panels + (kBlock + kPanel) * s.channels;
  float* const result = both + 2 * kPanel * s.middle;
  const auto row_of = [&](int64_t i) { return ring + (i + 5) % 5 * 2 * s.middle * kRingStride; };
  const bool past_caches = s.channels * plane >= kFarFloats;
  for (int64_t j = 0; j < s.width; j += kBlock) {
    const int64_t columns = s.width - j < kBlock ? s.width - j : kBlock;
    for (int64_t i = begin - kReach; i < begin + kReach; ++i) {
      down_row(s, at, packed, x, i, j, columns, i >= begin && i < end, panels, row_of(i));
    }
    for (int64_t i = begin; i < end; ++i) {
      down_row(s, at, packed, x, i + kReach, j, columns, i + kReach < end, panels,
               row_of(i + kReach));
      const bool planar = x.column == 1 && out.column == 1;
      if (!planar) {
        pack_panels(x.data + i * x.row + j * x.column, x.channel, x.column, s.channels, columns,
                    panels);
      }
      for (int64_t p = 0; p < columns; p += kPanel) {
        const int64_t left = columns - p;
        const float* rows[5];
        for (int64_t u = 0; u < 5; ++u) rows[u] = row_of(i + u - kReach) + p;
        const float* const gates = row_of(i) + s.middle * kRingStride + kReach + p;
        modulate_panel(rows, s.middle, kRingStride, packed + at.dw5, packed + at.dw5_bias, gates,
                       kRingStride, both);
        for (int64_t c = 0; c < s.middle; ++c) {
          const float* const in = planes + c * plane + i * s.width + j + p;
          float* const place = both + (s.middle + c) * kPanel;
#pragma GCC unroll 4
          for (int v = 0; v < V::kTileVectors; ++v) {
            V::store(place + v * V::kWidth,
                     relu_of(load_some(in + v * V::kWidth, left - v * V::kWidth)));
          }
        }
        float* const place = out.data + i * out.row + (j + p) * out.column;
        if (planar) {
          Product::multiply(packed + at.up, both, s.channels, 2 * s.middle, packed + at.up_bias,
                            x.data + i * x.row + j + p, x.channel, left,
                            {place, out.channel, past_caches && can_stream(place, out.channel)});
          continue;
        }
        Product::multiply(packed + at.up, both, s.channels, 2 * s.middle, packed + at.up_bias,
                          panels + p * s.channels, kPanel, kPanel, {result, kPanel});
        transpose(result, kPanel, s.channels, left < kPanel ? left : kPanel, place, out.column);
      }
    }
  }
  if (past_caches) V::fence();
}

}  // namespace
}  // namespace icmh::kernels
