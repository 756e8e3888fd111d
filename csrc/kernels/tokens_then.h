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

template <Then kThen>
ICMH_OP Vector::F then(Vector::F sum, const float* base) {
  if (kThen == Then::silu) return silu_of(sum);
  if (kThen == Then::add) return Vector::add(Vector::load(base), sum);
  if (kThen == Then::multiply) return Vector::mul(Vector::load(base), sum);
  return sum;
}

}  // namespace
}  // namespace icmh::kernels
