// The matrix product of kernels/tokens.h on vectors: out[t][o] = sum_k in[t][k] weight[o][k].
#pragma once

#include "kernels/panels.h"
#include "kernels/tokens_then.h"

namespace icmh::kernels {
namespace {

// A tile of sums in registers: kTokens times kTokenVectors of them, and as many vectors of weights.
#if defined(ICMH_VECTOR_AVX512)
constexpr int kTokens = 12, kTokenVectors = 2;
#elif defined(ICMH_VECTOR_AVX2)
constexpr int kTokens = 6, kTokenVectors = 2;
#elif defined(ICMH_VECTOR_NEON)
constexpr int kTokens = 6, kTokenVectors = 4;
#else
constexpr int kTokens = 4, kTokenVectors = 4;
#endif
constexpr int64_t kOutputs = kTokenVectors * Vector::kWidth;

// Floats that pack_outputs writes.
constexpr int64_t packed_outputs(int64_t outputs, int64_t depth) {
  return rounded_up(outputs, kOutputs) * depth;
}

// Packs the matrix weight (outputs, depth), whose rows are `stride` floats apart: kOutputs outputs
// at a time, depth by depth; outputs that are missing to a whole tile are zeros.
inline void pack_outputs(const float* weight, int64_t outputs, int64_t depth, int64_t stride,
                         float* packed) {
  for (int64_t first = 0; first < outputs; first += kOutputs) {
    const int64_t count = outputs - first < kOutputs ? outputs - first : kOutputs;
    for (int64_t k = 0; k < depth; ++k, packed += kOutputs) {
      for (int64_t i = 0; i < count; ++i) packed[i] = weight[(first + i) * stride + k];
      for (int64_t i = count; i < kOutputs; ++i) packed[i] = 0.0f;
    }
  }
}

// Lives as long as a thread computes products.
struct TokenSession {
  ~TokenSession() {}  // not trivial, so that no compiler calls it unused
};

// The left side of a product: a buffer of tokens.
struct TokenOperand {
  const float* tokens;
  int64_t stride;
};

// Products read whole tiles of tokens.
constexpr bool kReadsNoMore = false;

constexpr bool kOperandsAreTokens = true;
constexpr int64_t operand_floats(int64_t /*tokens*/, int64_t /*depth*/) { return 0; }

ICMH_TARGET inline TokenOperand operand_of(const float* tokens, int64_t stride, int64_t /*count*/,
                                           int64_t /*depth*/, float* /*memory*/) {
  return {tokens, stride};
}

inline TokenOperand operand_of(const TokenResult& result) { return {result.out, result.stride}; }

// out[t][o] = then(bias[o] + sum_k in[t][k] weight[o][k], base[t][o]) of a tile of kTokens tokens.
template <Then kThen>
ICMH_OP void token_tile(const float* in, int64_t in_stride, int64_t depth, const float* packed,
                        const float* bias, const float* base, int64_t base_stride, float* out,
                        int64_t out_stride) {
  using V = Vector;
  V::F sums[kTokens][kTokenVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kTokenVectors; ++v) {
    const V::F start = V::load(bias + v * V::kWidth);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) sums[t][v] = start;
  }
  for (int64_t k = 0; k < depth; ++k, packed += kOutputs) {
    V::F weights[kTokenVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTokenVectors; ++v) weights[v] = V::load(packed + v * V::kWidth);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const V::F value = V::all(in[t * in_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kTokenVectors; ++v) sums[t][v] = V::fma(value, weights[v], sums[t][v]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (int v = 0; v < kTokenVectors; ++v) {
      const float* const with = base + t * base_stride + v * V::kWidth;
      V::store(out + t * out_stride + v * V::kWidth, then<kThen>(sums[t][v], with));
    }
  }
}

// The same of all tokens and outputs; `result` is another buffer than `in`.
template <Then kThen>
ICMH_TARGET void multiply_tokens(const TokenOperand& in, int64_t tokens, int64_t depth,
                                 const float* packed, const float* bias, int64_t outputs,
                                 const float* base, int64_t base_stride,
                                 const TokenResult& result) {
  for (int64_t o = 0; o < outputs; o += kOutputs) {
    for (int64_t t = 0; t < tokens; t += kTokens) {
      token_tile<kThen>(in.tokens + t * in.stride, in.stride, depth, packed + o * depth, bias + o,
                        base + t * base_stride + o, base_stride,
                        result.out + t * result.stride + o, result.stride);
    }
  }
}

}  // namespace
}  // namespace icmh::kernels
