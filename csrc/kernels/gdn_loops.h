// The loops of kernels/gdn_cpu.h for one level of kernels/vector.h.
#pragma once

#include "kernels/gdn_cpu.h"
#include "kernels/tokens.h"

namespace icmh::kernels {
namespace {

constexpr int64_t kGdnChunk = 96;  // tokens that are normalized together

int64_t level_gdn_packed_size(int64_t channels) {
  return packed_outputs(channels, channels) + rounded_up(channels, kOutputs);
}

void level_gdn_pack(int64_t channels, const float* gamma, int64_t stride, const float* beta,
                    float* packed) {
  pack_outputs(gamma, channels, channels, stride, packed);
  float* const place = packed + packed_outputs(channels, channels);
  // One where there is no channel: the root is taken of all.
  for (int64_t c = 0; c < rounded_up(channels, kOutputs); ++c) {
    place[c] = c < channels ? beta[c] : 1.0f;
  }
}

int64_t level_gdn_scratch(int64_t channels) {
  return 2 * (kGdnChunk + kTokens) * token_stride(channels) + operand_floats(kGdnChunk, channels);
}

ICMH_TARGET void level_gdn_positions(const GdnMaps& maps, const float* packed, int64_t begin,
                                     int64_t end, float* memory) {
  using V = Vector;
  const TokenSession session;
  const int64_t channels = maps.channels, stride = token_stride(channels);
  const float* const beta = packed + packed_outputs(channels, channels);
  float* const squares = memory;
  float* const energy = squares + (kGdnChunk + kTokens) * stride;
  float* const operand = energy + (kGdnChunk + kTokens) * stride;
  for (int64_t first = begin; first < end; first += kGdnChunk) {
    const int64_t count = end - first < kGdnChunk ? end - first : kGdnChunk;
    load_tokens(maps.x + first * maps.x_position, maps.x_channel, maps.x_position, channels, count,
                squares, stride);
    for (int64_t t = 0; t < count; ++t) {
      float* const token = squares + t * stride;
      for (int64_t c = 0; c < channels; c += V::kWidth) {
        const V::F x = V::load(token + c);
        V::store(token + c, V::mul(x, x));
      }
    }
    multiply_tokens<Then::store>(operand_of(squares, stride, count, channels, operand), count,
                                 channels, packed, beta, channels, energy, stride,
                                 {energy, stride, nullptr});
    // The squares are needed no more: their memory takes x again, then the result.
    load_tokens(maps.x + first * maps.x_position, maps.x_channel, maps.x_position, channels, count,
                squares, stride);
    for (int64_t t = 0; t < count; ++t) {
      float* const token = squares + t * stride;
      const float* const sum = energy + t * stride;
      for (int64_t c = 0; c < channels; c += V::kWidth) {
        const V::F x = V::load(token + c), root = V::sqrt(V::load(sum + c));
        V::store(token + c, maps.inverse ? V::mul(x, root) : V::div(x, root));
      }
    }
    store_tokens(squares, stride, channels, count, maps.out + first * maps.out_position,
                 maps.out_channel, maps.out_position);
  }
}

}  // namespace
}  // namespace icmh::kernels
