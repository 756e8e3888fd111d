// Matrix products over tokens: positions whose channels are neighbours in memory. The twin of
// kernels/gemm.h for channels-last maps: there positions fill the vectors, here channels do.
//
// A buffer of tokens has a stride of `token_stride` floats and room for kTokens more tokens than it
// holds: products work on whole tiles, what they compute behind the end is never used. Channels
// between their number and the next multiple of kOutputs hold whatever comes out of zero weights.
#pragma once

#include "kernels/panels.h"

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

// Not a multiple of the distance at which a cache puts lines into one set.
constexpr int64_t token_stride(int64_t channels) { return rounded_up(channels, kOutputs) + 16; }

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

// What becomes of a sum, given what `out` holds.
enum class Then {
  store,     // sum
  silu,      // sum * sigmoid(sum)
  add,       // out + sum
  multiply,  // out * sum
};

// out[t][o] = then(bias[o] + sum_k in[t][k] weight[o][k]) of a tile of kTokens tokens.
template <Then kThen>
ICMH_OP void token_tile(const float* in, int64_t in_stride, int64_t depth, const float* packed,
                        const float* bias, float* out, int64_t out_stride) {
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
      float* const place = out + t * out_stride + v * V::kWidth;
      V::F value = sums[t][v];
      if (kThen == Then::silu) value = silu_of(value);
      if (kThen == Then::add) value = V::add(V::load(place), value);
      if (kThen == Then::multiply) value = V::mul(V::load(place), value);
      V::store(place, value);
    }
  }
}

// The same of all tokens and outputs; `in` and `out` are buffers of tokens, and two.
template <Then kThen>
ICMH_TARGET void multiply_tokens(const float* in, int64_t in_stride, int64_t tokens, int64_t depth,
                                 const float* packed, const float* bias, int64_t outputs,
                                 float* out, int64_t out_stride) {
  for (int64_t o = 0; o < outputs; o += kOutputs) {
    for (int64_t t = 0; t < tokens; t += kTokens) {
      token_tile<kThen>(in + t * in_stride, in_stride, depth, packed + o * depth, bias + o,
                        out + t * out_stride + o, out_stride);
    }
  }
}

// Neighbouring positions of a map to tokens. position_stride is 1 (channels are planes) or else
// channel_stride is.
ICMH_TARGET inline void load_tokens(const float* map, int64_t channel_stride,
                                    int64_t position_stride, int64_t channels, int64_t count,
                                    float* tokens, int64_t stride) {
  if (channel_stride != 1) {
    transpose(map, channel_stride, channels, count, tokens, stride);
    return;
  }
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(tokens + t * stride, map + t * position_stride,
                static_cast<std::size_t>(channels) * sizeof(float));
  }
}

// And back.
ICMH_TARGET inline void store_tokens(const float* tokens, int64_t stride, int64_t channels,
                                     int64_t count, float* map, int64_t channel_stride,
                                     int64_t position_stride) {
  if (channel_stride != 1) {
    transpose(tokens, stride, count, channels, map, channel_stride);
    return;
  }
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(map + t * position_stride, tokens + t * stride,
                static_cast<std::size_t>(channels) * sizeof(float));
  }
}

}  // namespace
}  // namespace icmh::kernels
