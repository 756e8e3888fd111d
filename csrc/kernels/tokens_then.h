// What becomes of the sums of a product over tokens (kernels/tokens.h).
#pragma once

#include "kernels/vector.h"

namespace icmh::kernels {
namespace {

// What becomes of a sum, given what `out` holds.
enum class Then {
  store,     // sum
  silu,      // sum * sigmoid(sum)
  add,       // out + sum
  multiply,  // out * sum
};

template <Then kThen>
ICMH_OP Vector::F then(Vector::F sum, const float* out) {
  if (kThen == Then::silu) return silu_of(sum);
  if (kThen == Then::add) return Vector::add(Vector::load(out), sum);
  if (kThen == Then::multiply) return Vector::mul(Vector::load(out), sum);
  return sum;
}

}  // namespace
}  // namespace icmh::kernels
