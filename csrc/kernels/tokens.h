// Matrix products over tokens: positions whose channels are neighbours in memory. The twin of
// kernels/gemm.h for channels-last maps: there positions fill the vectors, here channels do.
//
// A buffer of tokens has a stride of `token_stride` floats and room for kTokens more tokens than it
// holds: products work on whole tiles, what they compute behind the end is never used. Channels
// between their number and the next multiple of kOutputs hold whatever comes out of zero weights.
#pragma once

#include "kernels/panels.h"
#ifdef ICMH_TILES
#include "kernels/tokens_tiles.h"
#else
#include "kernels/tokens_vectors.h"
#endif

namespace icmh::kernels {
namespace {

// Not a multiple of the distance at which a cache puts lines into one set.
constexpr int64_t token_stride(int64_t channels) { return rounded_up(channels, kOutputs) + 16; }

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
