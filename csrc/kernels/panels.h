// Feature maps in and out of panels (kernels/gemm.h), from either layout.
#pragma once

#include "kernels/gemm.h"

namespace icmh::kernels {
namespace {

// out[j][i] = in[i][j], rows by columns; strides in floats.
ICMH_TARGET inline void transpose(const float* in, int64_t in_stride, int64_t rows, int64_t columns,
                                  float* out, int64_t out_stride) {
  int64_t i = 0;
#if defined(ICMH_VECTOR_AVX512) || defined(ICMH_VECTOR_AVX2)
  for (; i + 8 <= rows; i += 8) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) {
      const float* const p = in + i * in_stride + j;
      float* const q = out + j * out_stride + i;
      __m256 a[8], b[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) a[k] = _mm256_loadu_ps(p + k * in_stride);
#pragma GCC unroll 4
      for (int k = 0; k < 8; k += 2) {
        b[k] = _mm256_unpacklo_ps(a[k], a[k + 1]);
        b[k + 1] = _mm256_unpackhi_ps(a[k], a[k + 1]);
      }
#pragma GCC unroll 2
      for (int k = 0; k < 8; k += 4) {
        a[k] = _mm256_shuffle_ps(b[k], b[k + 2], 0x44);
        a[k + 1] = _mm256_shuffle_ps(b[k], b[k + 2], 0xEE);
        a[k + 2] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0x44);
        a[k + 3] = _mm256_shuffle_ps(b[k + 1], b[k + 3], 0xEE);
      }
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        _mm256_storeu_ps(q + k * out_stride, _mm256_permute2f128_ps(a[k], a[k + 4], 0x20));
        _mm256_storeu_ps(q + (k + 4) * out_stride, _mm256_permute2f128_ps(a[k], a[k + 4], 0x31));
      }
    }
    for (; j < columns; ++j) {
      for (int64_t k = 0; k < 8; ++k) out[j * out_stride + i + k] = in[(i + k) * in_stride + j];
    }
  }
#elif defined(ICMH_VECTOR_NEON)
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* const p = in + i * in_stride + j;
      float* const q = out + j * out_stride + i;
      const float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + in_stride);
      const float32x4_t c = vld1q_f32(p + 2 * in_stride), d = vld1q_f32(p + 3 * in_stride);
      const float32x4x2_t ac = vzipq_f32(a, c), bd = vzipq_f32(b, d);
      const float32x4x2_t low = vzipq_f32(ac.val[0], bd.val[0]);
      const float32x4x2_t high = vzipq_f32(ac.val[1], bd.val[1]);
      vst1q_f32(q, low.val[0]);
      vst1q_f32(q + out_stride, low.val[1]);
      vst1q_f32(q + 2 * out_stride, high.val[0]);
      vst1q_f32(q + 3 * out_stride, high.val[1]);
    }
    for (; j < columns; ++j) {
      for (int64_t k = 0; k < 4; ++k) out[j * out_stride + i + k] = in[(i + k) * in_stride + j];
    }
  }
#endif
  for (; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[j * out_stride + i] = in[i * in_stride + j];
  }
}

// Packs `columns` neighbouring positions of a map, `first` on, into whole panels, one behind the
// other, each (channels, kPanel); positions that are missing to the last panel are zeros.
// position_stride is 1 (channels are planes) or else channel_stride is.
ICMH_TARGET inline void pack_panels(const float* map, int64_t channel_stride,
                                    int64_t position_stride, int64_t channels, int64_t columns,
                                    float* panels) {
  using V = Vector;
  const int64_t whole = channels * kPanel;
  if (position_stride == 1) {
    // Channel by channel over all panels: long runs, which the hardware fetches ahead.
    for (int64_t c = 0; c < channels; ++c) {
      const float* const row = map + c * channel_stride;
      float* place = panels + c * kPanel;
      int64_t j = 0;
      for (; j + kPanel <= columns; j += kPanel, place += whole) {
#pragma GCC unroll 4
        for (int v = 0; v < V::kTileVectors; ++v) {
          V::store(place + v * V::kWidth, V::load(row + j + v * V::kWidth));
        }
      }
      if (j == columns) continue;
#pragma GCC unroll 4
      for (int v = 0; v < V::kTileVectors; ++v) {
        const int64_t k = j + v * V::kWidth;
        V::store(place + v * V::kWidth, load_some(row + k, columns - k));
      }
    }
    return;
  }
  for (int64_t j = 0; j < columns; j += kPanel, panels += whole) {
    const int64_t count = columns - j < kPanel ? columns - j : kPanel;
    transpose(map + j * position_stride, position_stride, count, channels, panels, kPanel);
    if (count < kPanel) {
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t k = count; k < kPanel; ++k) panels[c * kPanel + k] = 0.0f;
      }
    }
  }
}

}  // namespace
}  // namespace icmh::kernels
