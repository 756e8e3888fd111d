// The loops of kernels/convolution_cpu.h for one level of kernels/vector.h.
#pragma once

#include "kernels/convolution_cpu.h"
#include "kernels/tokens.h"

namespace icmh::kernels {
namespace {

// Positions that are computed together: each time all weights are read once.
constexpr int64_t kConvolutionChunk = 96;
static_assert(kConvolutionChunk % kTokens == 0, "no products for nothing");

int64_t level_convolution_packed_size(const Convolution& of) {
  return packed_outputs(of.outputs, of.depth()) + rounded_up(of.outputs, kOutputs);
}

void level_convolution_pack(const Convolution& of, const float* weight, const float* bias,
                            float* packed) {
  pack_outputs(weight, of.outputs, of.depth(), of.depth(), packed);
  float* const place = packed + packed_outputs(of.outputs, of.depth());
  for (int64_t o = 0; o < rounded_up(of.outputs, kOutputs); ++o) {
    place[o] = o < of.outputs ? bias[o] : 0.0f;
  }
}

int64_t level_convolution_scratch(const Convolution& of) {
  return (kConvolutionChunk + kTokens) * (token_stride(of.depth()) + token_stride(of.outputs)) +
         operand_floats(kConvolutionChunk, of.depth());
}

// What `count` positions of the result from `first` on see of x, one token each, zeros beyond it.
ICMH_TARGET inline void gather_tokens(const Convolution& of, const ConvolutionMaps& maps,
                                      int64_t first, int64_t count, float* tokens, int64_t stride) {
  const int64_t columns = of.length_of(maps.width), pad = of.side / 2;
  const int64_t row_floats = of.side * of.channels;
  for (int64_t t = 0; t < count; ++t, tokens += stride) {
    const int64_t top = (first + t) / columns * of.stride - pad;
    const int64_t left = (first + t) % columns * of.stride - pad;
    const int64_t begin = left < 0 ? -left : 0;
    const int64_t end = left + of.side > maps.width ? maps.width - left : of.side;
    for (int64_t u = 0; u < of.side; ++u) {
      float* const place = tokens + u * row_floats;
      const bool inside = top + u >= 0 && top + u < maps.height;
      if (!inside || begin > 0 || end < of.side) {
        std::memset(place, 0, static_cast<std::size_t>(row_floats) * sizeof(float));
      }
      if (!inside) continue;
      std::memcpy(place + begin * of.channels,
                  maps.x + ((top + u) * maps.width + left + begin) * of.channels,
                  static_cast<std::size_t>((end - begin) * of.channels) * sizeof(float));
    }
  }
}

ICMH_TARGET void level_convolution_positions(const Convolution& of, const ConvolutionMaps& maps,
                                             const float* packed, int64_t begin, int64_t end,
                                             float* memory) {
  const TokenSession session;
  const int64_t depth = of.depth(), stride = token_stride(depth);
  const float* const bias = packed + packed_outputs(of.outputs, depth);
  float* const tokens = memory;
  float* const sums = tokens + (kConvolutionChunk + kTokens) * stride;
  float* const words = sums + (kConvolutionChunk + kTokens) * token_stride(of.outputs);
  // With no copies, where products neither read nor write behind a token.
  const bool x_as_it_is = kReadsNoMore && of.side == 1 && of.stride == 1;
  const bool out_as_it_is = kReadsNoMore && of.outputs % kOutputs == 0;
  const int64_t out_stride = out_as_it_is ? of.outputs : token_stride(of.outputs);
  for (int64_t first = begin; first < end; first += kConvolutionChunk) {
    const int64_t count = end - first < kConvolutionChunk ? end - first : kConvolutionChunk;
    if (!x_as_it_is) gather_tokens(of, maps, first, count, tokens, stride);
    const TokenOperand operand =
        x_as_it_is ? operand_of(maps.x + first * of.channels, of.channels, count, depth, words)
                   : operand_of(tokens, stride, count, depth, words);
    float* const result = maps.out + first * of.outputs;
    float* const to = out_as_it_is ? result : sums;
    const auto multiply = of.silu ? multiply_tokens<Then::silu> : multiply_tokens<Then::store>;
    multiply(operand, count, depth, packed, bias, of.outputs, to, out_stride,
             {to, out_stride, nullptr});
    if (!out_as_it_is) {
      store_tokens(sums, out_stride, of.outputs, count, result, 1, of.outputs);
    }
  }
}

}  // namespace
}  // namespace icmh::kernels
