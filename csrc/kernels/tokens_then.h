// What becomes of the sums of a product over tokens (kernels/tokens.h).
#pragma once

#include "kernels/vector.h"

namespace icmh::kernels {
namespace {

// What becomes of a sum, given a value of another buffer, `base`.
enum class Then {
  store,     // sum
  silu,      // sum * sigmoid(sum)
  add,       // base + sum
  multiply,  // base * sum
};

// Where results go: to tokens, or as the left side of a further product to the operand's memory, or
// to both. `out` may be null where operands are not tokens.
struct TokenResult {
  float* out;
  int64_t stride;
  float* operand;
};

#ifdef ICMH_BFLOAT16
// With a relative error of 5e-4, where the next product rounds to 2^-8: 2^t is 2^n times Taylor's
// polynomial of degree 3.
ICMH_OP Vector::F rounded_silu_of(Vector::F x) {
  using V = Vector;
  const V::F t = V::mul(x, V::all(-1.44269504f));
  const V::F n = V::nearest(t);
  const V::F r = V::sub(t, n);
  V::F p = V::fma(V::all(0.0555041f), r, V::all(0.2402265f));
  p = V::fma(p, r, V::all(0.6931472f));
  p = V::fma(p, r, V::all(1.0f));
  return V::mul(x, _mm512_rcp14_ps(V::add(V::all(1.0f), V::times_power(p, n))));
}
#else
ICMH_OP Vector::F rounded_silu_of(Vector::F x) { return silu_of(x); }
#endif

template <Then kThen>
ICMH_OP Vector::F then(Vector::F sum, const float* base) {
  if (kThen == Then::silu) return rounded_silu_of(sum);
  if (kThen == Then::add) return Vector::add(Vector::load(base), sum);
  if (kThen == Then::multiply) return Vector::mul(Vector::load(base), sum);
  return sum;
}

}  // namespace
}  // namespace icmh::kernels
