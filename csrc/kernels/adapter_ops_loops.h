// The loops of kernels/adapter_ops.h for one level of kernels/vector.h.
#pragma once

#include "kernels/adapter_ops_level.h"
#include "kernels/panels.h"
#include "kernels/product.h"
#include "kernels/windows.h"

namespace icmh::kernels {
namespace {

// -- projections -----------------------------------------------------------------------------------

constexpr int64_t kGroup = 8 * kPanel;  // positions that are packed together

inline int64_t inputs_of(const Projection& p) { return p.first_inputs + p.second_inputs; }

int64_t level_project_packed_size(const Projection& p) {
  return rounded_up(Product::size(p.outputs, inputs_of(p)), 16) + p.outputs;
}

void level_project_pack(const Projection& p, float* packed) {
  Product::pack(p.weight, p.outputs, inputs_of(p), inputs_of(p), p.factor, packed);
  float* const bias = packed + rounded_up(Product::size(p.outputs, inputs_of(p)), 16);
  for (int64_t c = 0; c < p.outputs; ++c) bias[c] = p.factor * p.bias[c];
}

int64_t level_project_scratch(const Projection& p) {
  return kGroup * (inputs_of(p) + (p.second_inputs > 0 ? p.second_inputs : 0)) +
         (kGroup + kPanel) * p.outputs + kPanel * inputs_of(p);
}

ICMH_TARGET void level_project(const Projection& p, const float* packed, int64_t begin, int64_t end,
                               float* scratch) {
  using V = Vector;
  const Product::Session session;
  const int64_t inputs = inputs_of(p);
  const float* const bias = packed + rounded_up(Product::size(p.outputs, inputs), 16);
  float* const first = scratch;
  float* const second = first + kGroup * p.first_inputs;
  float* const residual = second + kGroup * p.second_inputs;
  float* const both = residual + kGroup * p.outputs;
  float* const result = both + kPanel * inputs;
  const auto pack = [&](const ConstMap& map, int64_t channels, int64_t at, int64_t count, float* to) {
    pack_panels(map.data + at * map.column, map.channel, map.column, channels, count, to);
  };
  for (int64_t at = begin; at < end; at += kGroup) {
    const int64_t count = end - at < kGroup ? end - at : kGroup;
    pack(p.first, p.first_inputs, at, count, first);
    if (p.second_inputs > 0) pack(p.second, p.second_inputs, at, count, second);
    if (p.residual.data != nullptr) pack(p.residual, p.outputs, at, count, residual);
    for (int64_t j = 0; j < count; j += kPanel) {
      const float* panel = first + j * p.first_inputs;
      if (p.second_inputs > 0) {
        const int64_t floats = kPanel * p.first_inputs;
        std::memcpy(both, panel, static_cast<std::size_t>(floats) * sizeof(float));
        const float* const more = second + j * p.second_inputs;
        for (int64_t k = 0; k < kPanel * p.second_inputs; k += V::kWidth) {
          V::store(both + floats + k, relu_of(V::load(more + k)));
        }
        panel = both;
      }
      const float* const added = p.residual.data == nullptr ? nullptr : residual + j * p.outputs;
      const int64_t left = count - j;
      float* const place = p.out.data + (at + j) * p.out.column;
      if (p.out.column == 1) {
        Product::multiply(packed, panel, p.outputs, inputs, bias, added, kPanel, left,
                          {place, p.out.channel});
      } else {
        Product::multiply(packed, panel, p.outputs, inputs, bias, added, kPanel, kPanel,
                          {result, kPanel});
        transpose(result, kPanel, p.outputs, left < kPanel ? left : kPanel, place, p.out.column);
      }
    }
  }
}

// -- spatial modulation ----------------------------------------------------------------------------

constexpr int64_t kBorder = 2;

inline int64_t window_stride(int64_t width) { return rounded_up(width, kPanel) + 16; }

int64_t level_modulate_scratch(const Modulation& m) {
  return m.channels * (5 * window_stride(m.width) + 2 * rounded_up(m.width, kPanel) + kPanel);
}

// Row i of x with two zeros before it and zeros behind.
ICMH_TARGET inline void window_row(const Modulation& m, int64_t i, float* row) {
  const int64_t stride = window_stride(m.width);
  std::memset(row, 0, static_cast<std::size_t>(m.channels * stride) * sizeof(float));
  if (i < 0 || i >= m.height) return;
  const float* const from = m.x.data + i * m.x.row;
  if (m.x.column == 1) {
    for (int64_t c = 0; c < m.channels; ++c) {
      std::memcpy(row + c * stride + kBorder, from + c * m.x.channel,
                  static_cast<std::size_t>(m.width) * sizeof(float));
    }
  } else {
    transpose(from, m.x.column, m.width, m.channels, row + kBorder, stride);
  }
}

ICMH_TARGET void level_modulate(const Modulation& m, int64_t begin, int64_t end, float* scratch) {
  const int64_t stride = window_stride(m.width);
  float* const ring = scratch;
  float* const gates = ring + 5 * m.channels * stride;
  float* const result = gates + m.channels * 2 * rounded_up(m.width, kPanel);
  const auto row_of = [&](int64_t i) { return ring + (i + 5) % 5 * m.channels * stride; };
  for (int64_t i = begin - kBorder; i < begin + kBorder; ++i) window_row(m, i, row_of(i));
  for (int64_t i = begin; i < end; ++i) {
    window_row(m, i + kBorder, row_of(i + kBorder));
    pack_panels(m.other.data + i * m.other.row, m.other.channel, m.other.column, m.channels,
                m.width, gates);
    for (int64_t j = 0; j < m.width; j += kPanel) {
      const float* rows[5];
      for (int64_t u = 0; u < 5; ++u) rows[u] = row_of(i + u - kBorder) + j;
      modulate_panel(rows, m.channels, stride, m.weight, m.bias, gates + j * m.channels,
                     kPanel, result);
      const int64_t left = m.width - j < kPanel ? m.width - j : kPanel;
      float* const place = m.out.data + i * m.out.row + j * m.out.column;
      if (m.out.column == 1) {
        for (int64_t c = 0; c < m.channels; ++c) {
          std::memcpy(place + c * m.out.channel, result + c * kPanel,
                      static_cast<std::size_t>(left) * sizeof(float));
        }
      } else {
        transpose(result, kPanel, m.channels, left, place, m.out.column);
      }
    }
  }
}

// -- frequency gate --------------------------------------------------------------------------------

inline int64_t part_stride(int64_t columns) { return rounded_up(columns, kPanel) + 16; }

int64_t level_frequency_gate_scratch(const FrequencyGate& g) {
  return g.channels * (3 * amplitude_stride(g.columns) + 6 * part_stride(g.columns) + 2 * kPanel) +
         rounded_up(packed_size(g.channels, g.channels), 16);
}

ICMH_TARGET void level_frequency_gate(const FrequencyGate& g, int64_t begin, int64_t end,
                                      float* scratch) {
  using V = Vector;
  const int64_t stride = amplitude_stride(g.columns), parts = part_stride(g.columns);
  float* const ring = scratch;
  float* const planar = ring + 3 * g.channels * stride;
  float* const smooth = planar + 6 * g.channels * parts;
  float* const gates = smooth + g.channels * kPanel;
  float* const packed = gates + g.channels * kPanel;
  pack_rows(g.mix, g.channels, g.channels, g.channels, 1.0f, packed);
  const auto row_of = [&](int64_t i) { return ring + (i + 3) % 3 * g.channels * stride; };
  const auto planar_of = [&](int64_t i) { return planar + (i + 3) % 3 * 2 * g.channels * parts; };
  for (int64_t i = begin - 1; i <= end; ++i) {
    // Row i comes in; row i - 1 then has both its neighbours.
    float* const amplitudes = row_of(i);
    if (i < 0 || i >= g.height) {
      std::memset(amplitudes, 0, static_cast<std::size_t>(g.channels * stride) * sizeof(float));
    } else {
      for (int64_t c = 0; c < g.channels; ++c) {
        float* const re = planar_of(i) + 2 * c * parts;
        float* const im = re + parts;
        const float* const in = g.spectrum + 2 * (c * g.height + i) * g.columns;
        for (int64_t k = 0; k < g.columns; ++k) {
          re[k] = in[2 * k];
          im[k] = in[2 * k + 1];
        }
        for (int64_t k = g.columns; k < parts; ++k) re[k] = im[k] = 0.0f;
        amplitude_row(re, im, g.columns, amplitudes + c * stride);
      }
    }
    if (i <= begin) continue;
    for (int64_t j = 0; j < g.columns; j += kPanel) {
      const float* const rows[3] = {row_of(i - 2) + j, row_of(i - 1) + j, row_of(i) + j};
      smooth_panel(rows, g.channels, stride, g.dw, g.dw_bias, smooth);
      multiply_panel(packed, smooth, g.channels, g.channels, g.mix_bias, nullptr, 0, kPanel,
                     {gates, kPanel});
      const int64_t left = g.columns - j < kPanel ? g.columns - j : kPanel;
      for (int64_t c = 0; c < g.channels; ++c) {
        float* const gate = gates + c * kPanel;
#pragma GCC unroll 4
        for (int v = 0; v < V::kTileVectors; ++v) {
          V::store(gate + v * V::kWidth, sigmoid_of(V::load(gate + v * V::kWidth)));
        }
        const float* const re = planar_of(i - 1) + 2 * c * parts + j;
        const float* const im = re + parts;
        float* const out = g.out + 2 * ((c * g.height + i - 1) * g.columns + j);
        for (int64_t k = 0; k < left; ++k) {
          out[2 * k] = gate[k] * re[k];
          out[2 * k + 1] = gate[k] * im[k];
        }
      }
    }
  }
}

}  // namespace
}  // namespace icmh::kernels
