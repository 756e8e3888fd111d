// The transforms of kernels/fft.h for one level of kernels/vector.h.
//
// `values` are `length` complex vectors, the real one before the imaginary one, 2 kWidth floats
// each. The inverse transform is the forward one with both exchanged.
#pragma once

#include "kernels/fft.h"
#include "kernels/panels.h"

namespace icmh::kernels {
namespace {

constexpr int64_t kLanes = Vector::kWidth;

struct Complex {
  Vector::F re, im;
};

ICMH_OP Complex load_complex(const float* p) { return {Vector::load(p), Vector::load(p + kLanes)}; }
ICMH_OP void store_complex(float* p, Complex z) {
  Vector::store(p, z.re);
  Vector::store(p + kLanes, z.im);
}
ICMH_OP Complex plus(Complex a, Complex b) {
  return {Vector::add(a.re, b.re), Vector::add(a.im, b.im)};
}
ICMH_OP Complex minus(Complex a, Complex b) {
  return {Vector::sub(a.re, b.re), Vector::sub(a.im, b.im)};
}
ICMH_OP Complex times(Complex a, Vector::F re, Vector::F im) {
  return {Vector::fnma(a.im, im, Vector::mul(a.re, re)),
          Vector::fma(a.im, re, Vector::mul(a.re, im))};
}
ICMH_OP Complex scaled_plus(Complex a, float factor, Complex b) {  // a factor + b
  const Vector::F f = Vector::all(factor);
  return {Vector::fma(a.re, f, b.re), Vector::fma(a.im, f, b.im)};
}
ICMH_OP Complex times_minus_i(Complex a) { return {a.im, Vector::sub(Vector::zero(), a.re)}; }

// The transform of kRadix numbers in place.
template <int kRadix>
struct Butterfly;

template <>
struct Butterfly<2> {
  ICMH_OP void run(Complex* a) {
    const Complex sum = plus(a[0], a[1]);
    a[1] = minus(a[0], a[1]);
    a[0] = sum;
  }
};

template <>
struct Butterfly<3> {
  ICMH_OP void run(Complex* a) {
    const Complex sum = plus(a[1], a[2]);
    const Complex side = times_minus_i(minus(a[1], a[2]));
    const Complex middle = scaled_plus(sum, -0.5f, a[0]);
    a[0] = plus(a[0], sum);
    a[1] = scaled_plus(side, 0.866025404f, middle);
    a[2] = scaled_plus(side, -0.866025404f, middle);
  }
};

template <>
struct Butterfly<4> {
  ICMH_OP void run(Complex* a) {
    const Complex b0 = plus(a[0], a[2]), b1 = minus(a[0], a[2]);
    const Complex b2 = plus(a[1], a[3]), b3 = times_minus_i(minus(a[1], a[3]));
    a[0] = plus(b0, b2);
    a[1] = plus(b1, b3);
    a[2] = minus(b0, b2);
    a[3] = minus(b1, b3);
  }
};

template <>
struct Butterfly<5> {
  ICMH_OP void run(Complex* a) {
    constexpr float kCos1 = 0.309016994f, kCos2 = -0.809016994f;
    constexpr float kSin1 = 0.951056516f, kSin2 = 0.587785252f;
    const Complex s1 = plus(a[1], a[4]), s2 = plus(a[2], a[3]);
    const Complex d1 = times_minus_i(minus(a[1], a[4])), d2 = times_minus_i(minus(a[2], a[3]));
    const Complex m1 = scaled_plus(s2, kCos2, scaled_plus(s1, kCos1, a[0]));
    const Complex m2 = scaled_plus(s2, kCos1, scaled_plus(s1, kCos2, a[0]));
    const Complex zero = {Vector::zero(), Vector::zero()};
    const Complex t1 = scaled_plus(d2, kSin2, scaled_plus(d1, kSin1, zero));
    const Complex t2 = scaled_plus(d2, -kSin1, scaled_plus(d1, kSin2, zero));
    a[0] = plus(a[0], plus(s1, s2));
    a[1] = plus(m1, t1);
    a[2] = plus(m2, t2);
    a[3] = minus(m2, t2);
    a[4] = minus(m1, t1);
  }
};

template <int kRadix>
ICMH_TARGET inline const float* fft_pass(const float* in, float* out, int64_t step, int64_t stride,
                                         const float* twiddles) {
  constexpr int64_t kSize = 2 * kLanes;
  for (int64_t p = 0; p < step; ++p) {
    Vector::F re[kRadix], im[kRadix];
#pragma GCC unroll 8
    for (int j = 1; j < kRadix; ++j) {
      re[j] = Vector::all(twiddles[2 * (j - 1)]);
      im[j] = Vector::all(twiddles[2 * (j - 1) + 1]);
    }
    twiddles += 2 * (kRadix - 1);
    for (int64_t q = 0; q < stride; ++q) {
      const float* const from = in + kSize * (q + stride * p);
      float* const to = out + kSize * (q + stride * kRadix * p);
      Complex a[kRadix];
#pragma GCC unroll 8
      for (int k = 0; k < kRadix; ++k) a[k] = load_complex(from + kSize * stride * step * k);
      Butterfly<kRadix>::run(a);
      store_complex(to, a[0]);
#pragma GCC unroll 8
      for (int j = 1; j < kRadix; ++j) {
        store_complex(to + kSize * stride * j, times(a[j], re[j], im[j]));
      }
    }
  }
  return twiddles;
}

// Any radix by the definition.
ICMH_TARGET inline const float* fft_pass_of(int64_t radix, const float* in, float* out,
                                            int64_t step, int64_t stride, const float* twiddles,
                                            const float* roots) {
  constexpr int64_t kSize = 2 * kLanes;
  for (int64_t p = 0; p < step; ++p, twiddles += 2 * (radix - 1)) {
    for (int64_t q = 0; q < stride; ++q) {
      const float* const from = in + kSize * (q + stride * p);
      float* const to = out + kSize * (q + stride * radix * p);
      for (int64_t j = 0; j < radix; ++j) {
        Complex sum = load_complex(from);
        for (int64_t k = 1; k < radix; ++k) {
          const float* const root = roots + 2 * (j * k % radix);
          sum = plus(sum, times(load_complex(from + kSize * stride * step * k),
                                Vector::all(root[0]), Vector::all(root[1])));
        }
        if (j > 0) {
          sum = times(sum, Vector::all(twiddles[2 * j - 2]), Vector::all(twiddles[2 * j - 1]));
        }
        store_complex(to + kSize * stride * j, sum);
      }
    }
  }
  return twiddles;
}

// Transforms `values`; `other` is as large. Returns which of both holds the result.
ICMH_TARGET inline float* fft(const FftPlan& plan, float* values, float* other) {
  const float* twiddles = plan.twiddles.data();
  int64_t left = plan.length, stride = 1;
  for (std::size_t pass = 0; pass < plan.radices.size(); ++pass) {
    const int64_t radix = plan.radices[pass];
    const int64_t step = left / radix;
    switch (radix) {
      case 2:
        twiddles = fft_pass<2>(values, other, step, stride, twiddles);
        break;
      case 3:
        twiddles = fft_pass<3>(values, other, step, stride, twiddles);
        break;
      case 4:
        twiddles = fft_pass<4>(values, other, step, stride, twiddles);
        break;
      case 5:
        twiddles = fft_pass<5>(values, other, step, stride, twiddles);
        break;
      default:
        twiddles = fft_pass_of(radix, values, other, step, stride, twiddles,
                               plan.roots.data() + plan.root_places[pass]);
    }
    float* const written = other;
    other = values;
    values = written;
    left = step;
    stride *= radix;
  }
  return values;
}

// -- real planes -----------------------------------------------------------------------------------

// A spectrum's row: the real parts of all columns, then the imaginary parts, each of so many
// floats, zeros behind.
constexpr int64_t kSpectrumStep = 16;
constexpr int64_t spectrum_stride(int64_t width) {
  return rounded_up(width / 2 + 1, kSpectrumStep);
}

// Between buffers that are read and written together: at a distance of a multiple of 4 KiB a load
// waits for the store that was no concern of its own.
constexpr int64_t kApart = 400;

inline int64_t fft_scratch(int64_t height, int64_t width) {
  const int64_t longest = height > width ? height : width;
  return 4 * kLanes * longest + 2 * kApart + 4 * kLanes * rounded_up(width / 2 + 1, 8);
}

// Lanes [0, count) of `rows`: out[2 kLanes k] = row[k], zeros in the other lanes.
ICMH_TARGET inline void gather_rows(const float* rows, int64_t stride, int64_t count,
                                    int64_t columns, float* out) {
  if (count < kLanes) {
    for (int64_t k = 0; k < columns; ++k) Vector::store(out + 2 * kLanes * k, Vector::zero());
  }
  transpose(rows, stride, count, columns, out, 2 * kLanes);
}

// spectrum (height, 2, spectrum_stride) of plane (height, width). Two rows go as the real and the
// imaginary part of one: Z = A + i B, and A[k] = (Z[k] + conj Z[-k]) / 2.
ICMH_TARGET inline void real_fft(const FftPlan& rows, const FftPlan& columns, const float* plane,
                                 float* spectrum, float* scratch) {
  using V = Vector;
  const int64_t height = columns.length, width = rows.length;
  const int64_t half = width / 2 + 1, stride = spectrum_stride(width);
  float* const values = scratch;
  float* const other = values + 2 * kLanes * (height > width ? height : width) + kApart;
  float* const parts = other + 2 * kLanes * (height > width ? height : width) + kApart;
  const V::F scale = V::all(0.5f);
  for (int64_t i = 0; i < height; i += 2 * kLanes) {
    const int64_t left = height - i;
    const int64_t first = left < kLanes ? left : kLanes;
    const int64_t second = left - first < kLanes ? left - first : kLanes;
    gather_rows(plane + i * width, width, first, width, values);
    gather_rows(plane + (i + first) * width, width, second, width, values + kLanes);
    const float* const z = fft(rows, values, other);
    // Four passes, a part each: their transposes write whole rows of the spectrum.
    for (int part = 0; part < 4; ++part) {
      const int64_t count = part < 2 ? first : second;
      if (count == 0) continue;
      const bool imaginary = (part & 1) != 0, is_second = part >= 2;
      for (int64_t k = 0; k < half; ++k) {
        const Complex a = load_complex(z + 2 * kLanes * k);
        const Complex b = load_complex(z + 2 * kLanes * (k == 0 ? 0 : width - k));
        V::F value;
        if (!is_second) {
          value = imaginary ? V::sub(a.im, b.im) : V::add(a.re, b.re);
        } else {
          value = imaginary ? V::sub(b.re, a.re) : V::add(a.im, b.im);
        }
        V::store(parts + kLanes * k, V::mul(scale, value));
      }
      float* const out = spectrum + (2 * (is_second ? i + first : i) + (imaginary ? 1 : 0)) * stride;
      transpose(parts, kLanes, half, count, out, 2 * stride);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t k = half; k < stride; ++k) out[2 * stride * r + k] = 0.0f;
      }
    }
  }
  for (int64_t j = 0; j < half; j += kLanes) {
    for (int64_t i = 0; i < height; ++i) {
      const float* const row = spectrum + 2 * i * stride + j;
      store_complex(values + 2 * kLanes * i, {V::load(row), V::load(row + stride)});
    }
    const float* const z = fft(columns, values, other);
    for (int64_t i = 0; i < height; ++i) {
      const Complex value = load_complex(z + 2 * kLanes * i);
      float* const row = spectrum + 2 * i * stride + j;
      V::store(row, value.re);
      V::store(row + stride, value.im);
    }
  }
}

// The inverse without its factor 1 / (height width): plane (height, width) of a spectrum, which it
// overwrites. As in other libraries the imaginary parts of the first column, and of the last one
// of an even width, count as zero after the columns' transform.
ICMH_TARGET inline void real_inverse_fft(const FftPlan& rows, const FftPlan& columns,
                                         float* spectrum, float* plane, float* scratch) {
  using V = Vector;
  const int64_t height = columns.length, width = rows.length;
  const int64_t half = width / 2 + 1, stride = spectrum_stride(width);
  float* const values = scratch;
  float* const other = values + 2 * kLanes * (height > width ? height : width) + kApart;
  float* const parts = other + 2 * kLanes * (height > width ? height : width) + kApart;
  for (int64_t j = 0; j < half; j += kLanes) {
    for (int64_t i = 0; i < height; ++i) {
      const float* const row = spectrum + 2 * i * stride + j;
      store_complex(values + 2 * kLanes * i, {V::load(row + stride), V::load(row)});
    }
    const float* const z = fft(columns, values, other);
    for (int64_t i = 0; i < height; ++i) {
      const Complex value = load_complex(z + 2 * kLanes * i);
      float* const row = spectrum + 2 * i * stride + j;
      V::store(row, value.im);
      V::store(row + stride, value.re);
    }
  }
  const int64_t part = kLanes * rounded_up(half, 8);
  for (int64_t i = 0; i < height; i += 2 * kLanes) {
    const int64_t left = height - i;
    const int64_t first = left < kLanes ? left : kLanes;
    const int64_t second = left - first < kLanes ? left - first : kLanes;
    for (int p = 0; p < 4; ++p) {
      const int64_t count = p < 2 ? first : second;
      float* const to = parts + p * part;
      if (count < kLanes) {
        for (int64_t k = 0; k < half; ++k) V::store(to + kLanes * k, V::zero());
      }
      transpose(spectrum + (2 * (p < 2 ? i : i + first) + (p & 1)) * stride, 2 * stride, count, half,
                to, kLanes);
    }
    // Z[k] = A[k] + i B[k], Z[-k] = conj A[k] + i conj B[k]; exchanged parts, for the inverse.
    for (int64_t k = 0; k < half; ++k) {
      const V::F are = V::load(parts + kLanes * k), bre = V::load(parts + 2 * part + kLanes * k);
      if (k == 0 || 2 * k == width) {
        store_complex(values + 2 * kLanes * k, {bre, are});
        continue;
      }
      const V::F aim = V::load(parts + part + kLanes * k);
      const V::F bim = V::load(parts + 3 * part + kLanes * k);
      store_complex(values + 2 * kLanes * k, {V::add(aim, bre), V::sub(are, bim)});
      store_complex(values + 2 * kLanes * (width - k), {V::sub(bre, aim), V::add(are, bim)});
    }
    const float* const z = fft(rows, values, other);
    // `z` holds the second rows' values first.
    transpose(z + kLanes, 2 * kLanes, width, first, plane + i * width, width);
    transpose(z, 2 * kLanes, width, second, plane + (i + first) * width, width);
  }
}

}  // namespace
}  // namespace icmh::kernels
