// The loops of kernels/depth_conv_block_cpu.h for one level of kernels/vector.h.
//
// Rows of silu(mix_in x) go into a ring of slots, of which the depthwise convolution sees the last
// rows; the rest of the block follows for a chunk of tokens at a time.
#pragma once

#include "kernels/depth_conv_block_cpu.h"
#include "kernels/tokens.h"

namespace icmh::kernels {
namespace {

// Tokens that go through the block together, at most: each time all weights are read once.
constexpr int64_t kChunk = kOperandsAreTokens ? 96 : 256;
static_assert(kChunk % kTokens == 0, "no products for nothing");

// Where in the packed weights everything lies.
struct DepthConvPacked {
  int64_t mix_in, mix_out, gate, value, out, taps;
  int64_t mix_in_bias, mix_out_bias, gate_bias, value_bias, out_bias, spatial_bias;
  int64_t size;

  explicit DepthConvPacked(int64_t channels) {
    const int64_t matrix = packed_outputs(channels, channels);
    const int64_t row = rounded_up(channels, kOutputs);
    int64_t end = 0;
    for (int64_t* place : {&mix_in, &mix_out, &gate, &value, &out}) {
      *place = end;
      end += matrix;
    }
    taps = end;
    end += 9 * row;
    for (int64_t* place : {&mix_in_bias, &mix_out_bias, &gate_bias, &value_bias, &out_bias,
                           &spatial_bias}) {
      *place = end;
      end += row;
    }
    size = end;
  }
};

int64_t level_depth_conv_packed_size(int64_t channels) { return DepthConvPacked(channels).size; }

void level_depth_conv_pack(int64_t channels, const DepthConvWeights& w, float* packed) {
  const DepthConvPacked at(channels);
  const int64_t row = rounded_up(channels, kOutputs);
  const auto pack_bias = [&](const float* bias, int64_t to) {
    for (int64_t c = 0; c < row; ++c) packed[to + c] = c < channels ? bias[c] : 0.0f;
  };
  const auto pack = [&](const DepthConvMatrix& matrix, int64_t weight_to, int64_t bias_to) {
    pack_outputs(matrix.weight, channels, channels, matrix.stride, packed + weight_to);
    pack_bias(matrix.bias, bias_to);
  };
  pack(w.mix_in, at.mix_in, at.mix_in_bias);
  pack(w.mix_out, at.mix_out, at.mix_out_bias);
  pack(w.gate, at.gate, at.gate_bias);
  pack(w.value, at.value, at.value_bias);
  pack(w.out, at.out, at.out_bias);
  for (int64_t tap = 0; tap < 9; ++tap) {
    for (int64_t c = 0; c < row; ++c) {
      packed[at.taps + tap * row + c] = c < channels ? w.spatial[c * 9 + tap] : 0.0f;
    }
  }
  pack_bias(w.spatial_bias, at.spatial_bias);
}

// The ring: whole rows, a chunk a slot at most, and two rows more than a slot at hand.
struct DepthConvRing {
  int64_t rows, slots, slot_stride;  // stride in tokens

  explicit DepthConvRing(int64_t width) {
    rows = 1;
    // As many as leave the least of the last tile of tokens empty.
    const auto cost = [width](int64_t count) {
      return rounded_up(count * width, kTokens) * 64 / (count * width);
    };
    for (int64_t more = 2; more * width <= kChunk; ++more) {
      if (cost(more) <= cost(rows)) rows = more;
    }
    slots = rows == 1 ? 3 : 2;
    slot_stride = rows * width + kTokens;
  }
  int64_t tokens() const { return slots * slot_stride; }
};

int64_t level_depth_conv_scratch(int64_t channels, int64_t width) {
  const int64_t stride = token_stride(channels);
  return (DepthConvRing(width).tokens() + 3 * (kChunk + kTokens)) * stride +
         2 * operand_floats(kChunk, channels);
}

// Three rows around one, each kept as the place of its first token; null is a row of zeros.
struct DepthConvRows {
  const float* row[3];
};

// Tokens [begin, end) of a row of the depthwise convolution.
ICMH_TARGET inline void depthwise_tokens(const DepthConvRows& rows, int64_t stride, int64_t width,
                                         int64_t begin, int64_t end, int64_t channels,
                                         const float* taps, const float* bias, float* out) {
  using V = Vector;
  const int64_t tap_stride = rounded_up(channels, kOutputs);
  for (int64_t c = 0; c < channels; c += V::kWidth) {
    // The window slides: three values of it are new for every token.
    V::F weight[9], left[3], middle[3];
    const float* next[3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        weight[3 * i + j] =
            rows.row[i] == nullptr ? V::zero() : V::load(taps + (3 * i + j) * tap_stride + c);
      }
      // Of a missing row any values will do: its weights are zero, and values are finite.
      next[i] = (rows.row[i] == nullptr ? rows.row[1] : rows.row[i]) + begin * stride + c;
      left[i] = begin == 0 ? V::zero() : V::load(next[i] - stride);
      middle[i] = V::load(next[i]);
      next[i] += stride;
    }
    const V::F start = V::load(bias + c);
    float* place = out + c;
    for (int64_t t = begin; t < end; ++t, place += stride) {
      V::F sums[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) {
        const V::F right = t + 1 < width ? V::load(next[i]) : V::zero();
        sums[i] = V::mul(weight[3 * i], left[i]);
        sums[i] = V::fma(weight[3 * i + 1], middle[i], sums[i]);
        sums[i] = V::fma(weight[3 * i + 2], right, sums[i]);
        left[i] = middle[i];
        middle[i] = right;
        next[i] += stride;
      }
      V::store(place, V::add(V::add(start, sums[1]), V::add(sums[0], sums[2])));
    }
  }
}

ICMH_TARGET void level_depth_conv_rows(const DepthConvMaps& maps, const float* packed,
                                       int64_t begin, int64_t end, float* memory) {
  if (begin >= end) return;
  const int64_t channels = maps.channels, width = maps.width;
  const int64_t stride = token_stride(channels);
  const DepthConvPacked at(channels);
  const DepthConvRing ring(width);
  const TokenSession session;
  float* const slots = memory;
  float* const mixed = slots + ring.tokens() * stride;
  float* const tokens = mixed + (kChunk + kTokens) * stride;
  float* const gated = tokens + (kChunk + kTokens) * stride;
  float* const operand = gated + (kChunk + kTokens) * stride;
  float* const further_operand = operand + operand_floats(kChunk, channels);

  // The place of a row in the ring, counted so that rows begin + 1 + n * ring.rows start a slot.
  const auto place_of = [&](int64_t row) {
    const int64_t i = row - begin + 2 * ring.rows - 1;
    return slots + (i / ring.rows % ring.slots * ring.slot_stride + i % ring.rows * width) * stride;
  };
  // Tokens as the maps hold them, with no copies, where products can take them.
  const bool direct = kReadsNoMore && maps.x_channel == 1 && maps.out_channel == 1 &&
                      channels % kOutputs == 0;
  const int64_t x_stride = direct ? maps.x_position : stride;
  const auto x_tokens = [&](int64_t position, int64_t count) -> const float* {
    const float* const x = maps.x + position * maps.x_position;
    if (direct) return x;
    load_tokens(x, maps.x_channel, maps.x_position, channels, count, tokens, stride);
    return tokens;
  };
  // silu(mix_in x) of rows that lie in one slot.
  const auto mix_in = [&](int64_t first, int64_t last) {
    float* const place = place_of(first);
    const int64_t count = (last - first) * width;
    for (int64_t t = 0; t < count; t += kChunk) {
      const int64_t some = count - t < kChunk ? count - t : kChunk;
      const float* const x = x_tokens(first * width + t, some);
      multiply_tokens<Then::silu>(operand_of(x, x_stride, some, channels, operand), some, channels,
                                  packed + at.mix_in, packed + at.mix_in_bias, channels, x,
                                  x_stride, {place + t * stride, stride, nullptr});
    }
  };

  for (int64_t row = begin - 1; row <= begin; ++row) {
    if (row >= 0) mix_in(row, row + 1);
  }
  for (int64_t first = begin; first < end; first += ring.rows) {
    const int64_t last = first + ring.rows < end ? first + ring.rows : end;
    const int64_t below = last + 1 < maps.height ? last + 1 : maps.height;
    if (first + 1 < below) mix_in(first + 1, below);
    const int64_t count = (last - first) * width;
    for (int64_t t = 0; t < count; t += kChunk) {
      const int64_t some = count - t < kChunk ? count - t : kChunk;
      for (int64_t done = 0; done < some;) {
        const int64_t row = first + (t + done) / width, column = (t + done) % width;
        const int64_t piece = width - column < some - done ? width - column : some - done;
        DepthConvRows rows{{row > 0 ? place_of(row - 1) : nullptr, place_of(row),
                            row + 1 < maps.height ? place_of(row + 1) : nullptr}};
        depthwise_tokens(rows, stride, width, column, column + piece, channels, packed + at.taps,
                         packed + at.spatial_bias, mixed + done * stride);
        done += piece;
      }
      const float* const x = x_tokens(first * width + t, some);
      const TokenResult both{tokens, stride, further_operand};
      multiply_tokens<Then::add>(operand_of(mixed, stride, some, channels, operand), some, channels,
                                 packed + at.mix_out, packed + at.mix_out_bias, channels, x,
                                 x_stride, both);
      multiply_tokens<Then::silu>(operand_of(both), some, channels, packed + at.gate,
                                  packed + at.gate_bias, channels, gated, stride,
                                  {gated, stride, nullptr});
      const TokenResult product{kOperandsAreTokens ? gated : nullptr, stride, operand};
      multiply_tokens<Then::multiply>(operand_of(both), some, channels, packed + at.value,
                                      packed + at.value_bias, channels, gated, stride, product);
      float* const result = maps.out + (first * width + t) * maps.out_position;
      const auto finish = [&](float* to, int64_t to_stride) {
        multiply_tokens<Then::add>(operand_of(product), some, channels, packed + at.out,
                                   packed + at.out_bias, channels, tokens, stride,
                                   {to, to_stride, nullptr});
      };
      if (direct) {
        finish(result, maps.out_position);
      } else {
        finish(tokens, stride);
        store_tokens(tokens, stride, channels, some, result, maps.out_channel, maps.out_position);
      }
    }
  }
}

}  // namespace
}  // namespace icmh::kernels
