// Vectors of floats, one struct of inline operations for each instruction set, so that a loop is
// written once as a template over the struct. A source file of a level defines ICMH_TARGET and one
// of ICMH_VECTOR_AVX512, _AVX2, _NEON or _SCALAR before it includes this, and includes everything
// of the standard library before that: an inline function compiled for a higher level than the
// CPU's must never be the one that the linker keeps. For the same reason all of it, and the loops,
// are in an unnamed namespace.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(ICMH_VECTOR_AVX512) || defined(ICMH_VECTOR_AVX2)
#include <immintrin.h>
#elif defined(ICMH_VECTOR_NEON)
#include <arm_neon.h>
#elif !defined(ICMH_VECTOR_SCALAR)
#error "define the level before including kernels/vector.h"
#endif

// Of every function that works with vectors; inlined, so that no vector is ever passed in memory.
#define ICMH_OP ICMH_TARGET static inline __attribute__((always_inline))
// Of lambdas in such functions, between their parameters and their body.
#define ICMH_LAMBDA __attribute__((always_inline)) ICMH_TARGET

namespace icmh::kernels {
namespace {

using std::int32_t;
using std::int64_t;

// `stream` stores past the caches, where the instruction set can, at an address that is a multiple of
// a vector's bytes; `fence` comes before another thread may read that.
#if defined(ICMH_VECTOR_AVX512)

struct Vector {
  static constexpr int kWidth = 16;
  // Registers of a GEMM tile: rows times vectors accumulators, so many vectors of the other side.
  static constexpr int kTileRows = 8, kTileVectors = 3;
  using F = __m512;

  ICMH_OP F zero() { return _mm512_setzero_ps(); }
  ICMH_OP F all(float x) { return _mm512_set1_ps(x); }
  ICMH_OP F load(const float* p) { return _mm512_loadu_ps(p); }
  ICMH_OP void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  ICMH_OP void stream(float* p, F x) { _mm512_stream_ps(p, x); }
  ICMH_OP void fence() { _mm_sfence(); }
  ICMH_OP __mmask16 first(int64_t n) {
    return static_cast<__mmask16>(n >= kWidth ? 0xFFFF : (1u << n) - 1);
  }
  // The first n values, zeros behind; n may be more than there are.
  ICMH_OP F load_first(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  ICMH_OP void store_first(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }
  ICMH_OP F add(F a, F b) { return _mm512_add_ps(a, b); }
  ICMH_OP F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  ICMH_OP F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  ICMH_OP F div(F a, F b) { return _mm512_div_ps(a, b); }
  ICMH_OP F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }   // a b + c
  ICMH_OP F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
  ICMH_OP F max(F a, F b) { return _mm512_max_ps(a, b); }  // b if one is NaN
  ICMH_OP F min(F a, F b) { return _mm512_min_ps(a, b); }
  ICMH_OP F sqrt(F x) { return _mm512_sqrt_ps(x); }
  ICMH_OP F nearest(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // x times 2 to the n, n a whole number of at most 127 in magnitude.
  ICMH_OP F times_power(F x, F n) { return _mm512_scalef_ps(x, n); }
};

#elif defined(ICMH_VECTOR_AVX2)

struct Vector {
  static constexpr int kWidth = 8;
  static constexpr int kTileRows = 4, kTileVectors = 3;
  using F = __m256;

  ICMH_OP F zero() { return _mm256_setzero_ps(); }
  ICMH_OP F all(float x) { return _mm256_set1_ps(x); }
  ICMH_OP F load(const float* p) { return _mm256_loadu_ps(p); }
  ICMH_OP void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  ICMH_OP void stream(float* p, F x) { _mm256_stream_ps(p, x); }
  ICMH_OP void fence() { _mm_sfence(); }
  ICMH_OP __m256i first(int64_t n) {
    const __m256i places = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const int count = static_cast<int>(n < kWidth ? n : kWidth);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), places);
  }
  ICMH_OP F load_first(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  ICMH_OP void store_first(float* p, F x, int64_t n) { _mm256_maskstore_ps(p, first(n), x); }
  ICMH_OP F add(F a, F b) { return _mm256_add_ps(a, b); }
  ICMH_OP F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  ICMH_OP F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  ICMH_OP F div(F a, F b) { return _mm256_div_ps(a, b); }
  ICMH_OP F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  ICMH_OP F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  ICMH_OP F max(F a, F b) { return _mm256_max_ps(a, b); }
  ICMH_OP F min(F a, F b) { return _mm256_min_ps(a, b); }
  ICMH_OP F sqrt(F x) { return _mm256_sqrt_ps(x); }
  ICMH_OP F nearest(F x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  ICMH_OP F times_power(F x, F n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(
                                _mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23))));
  }
};

#elif defined(ICMH_VECTOR_NEON)

struct Vector {
  static constexpr int kWidth = 4;
  static constexpr int kTileRows = 6, kTileVectors = 4;
  using F = float32x4_t;

  ICMH_OP F zero() { return vdupq_n_f32(0.0f); }
  ICMH_OP F all(float x) { return vdupq_n_f32(x); }
  ICMH_OP F load(const float* p) { return vld1q_f32(p); }
  ICMH_OP void store(float* p, F x) { vst1q_f32(p, x); }
  ICMH_OP void stream(float* p, F x) { vst1q_f32(p, x); }
  ICMH_OP void fence() {}
  ICMH_OP F load_first(const float* p, int64_t n) {
    if (n >= kWidth) return load(p);
    float values[kWidth] = {};
    for (int64_t i = 0; i < n; ++i) values[i] = p[i];
    return load(values);
  }
  ICMH_OP void store_first(float* p, F x, int64_t n) {
    if (n >= kWidth) return store(p, x);
    float values[kWidth];
    store(values, x);
    for (int64_t i = 0; i < n; ++i) p[i] = values[i];
  }
  ICMH_OP F add(F a, F b) { return vaddq_f32(a, b); }
  ICMH_OP F sub(F a, F b) { return vsubq_f32(a, b); }
  ICMH_OP F mul(F a, F b) { return vmulq_f32(a, b); }
  ICMH_OP F div(F a, F b) { return vdivq_f32(a, b); }
  ICMH_OP F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  ICMH_OP F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
  // As on x86, b if one is NaN.
  ICMH_OP F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  ICMH_OP F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  ICMH_OP F sqrt(F x) { return vsqrtq_f32(x); }
  ICMH_OP F nearest(F x) { return vrndnq_f32(x); }
  ICMH_OP F times_power(F x, F n) {
    const int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(n), 23);
    return vmulq_f32(x, vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(127 << 23))));
  }
};

#else

struct Vector {
  static constexpr int kWidth = 1;
  static constexpr int kTileRows = 4, kTileVectors = 4;
  using F = float;

  ICMH_OP F zero() { return 0.0f; }
  ICMH_OP F all(float x) { return x; }
  ICMH_OP F load(const float* p) { return *p; }
  ICMH_OP void store(float* p, F x) { *p = x; }
  ICMH_OP void stream(float* p, F x) { *p = x; }
  ICMH_OP void fence() {}
  ICMH_OP F load_first(const float* p, int64_t n) { return n > 0 ? *p : 0.0f; }
  ICMH_OP void store_first(float* p, F x, int64_t n) {
    if (n > 0) *p = x;
  }
  ICMH_OP F add(F a, F b) { return a + b; }
  ICMH_OP F sub(F a, F b) { return a - b; }
  ICMH_OP F mul(F a, F b) { return a * b; }
  ICMH_OP F div(F a, F b) { return a / b; }
  // Two roundings: a library call for each product would be slower than all the rest.
  ICMH_OP F fma(F a, F b, F c) { return a * b + c; }
  ICMH_OP F fnma(F a, F b, F c) { return c - a * b; }
  ICMH_OP F max(F a, F b) { return a > b ? a : b; }
  ICMH_OP F min(F a, F b) { return a < b ? a : b; }
  ICMH_OP F sqrt(F x) { return std::sqrt(x); }
  ICMH_OP F nearest(F x) { return std::nearbyint(x); }
  ICMH_OP F times_power(F x, F n) { return std::ldexp(x, static_cast<int>(n)); }
};

#endif

// The first n values at p, zeros behind, where n may be anything: as many as the panel still has.
ICMH_OP Vector::F load_some(const float* p, int64_t n) {
  if (n >= Vector::kWidth) return Vector::load(p);
  return n > 0 ? Vector::load_first(p, n) : Vector::zero();
}
ICMH_OP void store_some(float* p, Vector::F x, int64_t n) {
  if (n >= Vector::kWidth) {
    Vector::store(p, x);
  } else if (n > 0) {
    Vector::store_first(p, x, n);
  }
}

// exp(x) for x from -87 to 88, what is beyond counting as the end; relative error below 2e-7.
// Cody and Waite's reduction to ±ln(2)/2 and Taylor's polynomial of degree 7, whose remainder
// there is 5e-9.
ICMH_OP Vector::F exp_of(Vector::F x) {
  using V = Vector;
  x = V::min(V::all(88.0f), V::max(V::all(-87.0f), x));
  const V::F n = V::nearest(V::mul(x, V::all(1.44269504f)));
  V::F r = V::fnma(n, V::all(0.693145752f), x);  // 15 bits of ln 2: n times it is exact
  r = V::fnma(n, V::all(1.42860677e-6f), r);
  V::F p = V::all(1.0f / 5040);
  p = V::fma(p, r, V::all(1.0f / 720));
  p = V::fma(p, r, V::all(1.0f / 120));
  p = V::fma(p, r, V::all(1.0f / 24));
  p = V::fma(p, r, V::all(1.0f / 6));
  p = V::fma(p, r, V::all(0.5f));
  p = V::fma(p, r, V::all(1.0f));
  p = V::fma(p, r, V::all(1.0f));
  return V::times_power(p, n);
}

ICMH_OP Vector::F sigmoid_of(Vector::F x) {
  using V = Vector;
  return V::div(V::all(1.0f), V::add(V::all(1.0f), exp_of(V::sub(V::zero(), x))));
}

ICMH_OP Vector::F silu_of(Vector::F x) {
  using V = Vector;
  return V::div(x, V::add(V::all(1.0f), exp_of(V::sub(V::zero(), x))));
}

ICMH_OP Vector::F relu_of(Vector::F x) {
  // max gives its second operand for NaN: it must not be lost.
  return Vector::max(Vector::zero(), x);
}

}  // namespace
}  // namespace icmh::kernels
