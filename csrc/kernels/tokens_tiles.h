// The matrix product of kernels/tokens.h on AMX tiles, with numbers as sums of two bfloat16: see
// kernels/gemm_tiles.h, also for how exact that is. Or, for a level that defines ICMH_BFLOAT16, as
// one bfloat16 each: a third of the products and half the memory, with a relative error of 2^-8.
#pragma once

#include "kernels/gemm_tiles.h"
#include "kernels/panels.h"
#include "kernels/tokens_then.h"

namespace icmh::kernels {
namespace {

using TokenSession = Tiles;

constexpr int kTokens = 32;         // two tiles of positions
constexpr int64_t kOutputs = 32;    // two tiles of outputs
#ifdef ICMH_BFLOAT16
constexpr int64_t kHalves = 1;
#else
constexpr int64_t kHalves = 2;
#endif
// Two tiles of upper halves, then two of lower ones where there are any.
constexpr int64_t kPairWords = 2 * kHalves * kTileWords;

// Floats that pack_outputs writes.
constexpr int64_t packed_outputs(int64_t outputs, int64_t depth) {
  return rounded_up(outputs, kOutputs) * rounded_up(depth, kTileDepth) * kHalves / 2;
}

// Two vectors of neighbouring channels as 16 words of upper halves and 16 of lower ones where they
// are kept. A word holds two neighbours.
ICMH_OP void split_vectors(Vector::F first, Vector::F second, std::uint32_t* upper,
                           std::uint32_t* lower) {
  const __m512i half = _mm512_set1_epi32(0x8000), mask = _mm512_set1_epi32(~0xFFFF);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  const __m512 a = _mm512_permutex2var_ps(first, even, second);
  const __m512 b = _mm512_permutex2var_ps(first, odd, second);
  const __m512i c = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(a), half), mask);
  const __m512i d = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(b), half), mask);
  _mm512_storeu_si512(upper, _mm512_or_si512(_mm512_srli_epi32(c, 16), d));
  if (kHalves == 1) return;
  const __m512i e =
      _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(a, _mm512_castsi512_ps(c))), half);
  const __m512i f =
      _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(b, _mm512_castsi512_ps(d))), half);
  _mm512_storeu_si512(lower, _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(e, 16), f));
}

// 32 channels of one token, `left` of them there, likewise.
ICMH_OP void split_channels(const float* in, int64_t left, std::uint32_t* upper,
                            std::uint32_t* lower) {
  const __m512 first = Vector::load_first(in, left);
  const __m512 second = left > 16 ? Vector::load_first(in + 16, left - 16) : Vector::zero();
  split_vectors(first, second, upper, lower);
}

// Packs the matrix weight (outputs, depth), whose rows are `stride` floats apart, as tiles: for 32
// outputs after 32 outputs, for 32 columns after 32 columns, both tiles of upper halves, then of
// lower ones. A row of a tile is two columns of 16 outputs. Zeros where the matrix ends.
ICMH_TARGET inline void pack_outputs(const float* weight, int64_t outputs, int64_t depth,
                                     int64_t stride, float* packed) {
  // Transposed as words, which vectors of floats move as they are.
  alignas(64) float upper[kTileWords], lower[kTileWords];
  for (int64_t o = 0; o < outputs; o += kOutputs) {
    for (int64_t k = 0; k < depth; k += kTileDepth, packed += kPairWords) {
      for (int64_t tile = 0; tile < 2; ++tile) {
        float* const upper_tile = packed + tile * kTileWords;
        float* const lower_tile = upper_tile + (kHalves - 1) * 2 * kTileWords;
        const int64_t first = o + 16 * tile;
        const int64_t count = outputs - first < 16 ? outputs - first : 16;
        if (count < 16) {
          std::memset(upper_tile, 0, kTileWords * sizeof(float));
          if (kHalves == 2) std::memset(lower_tile, 0, kTileWords * sizeof(float));
        }
        for (int64_t i = 0; i < count; ++i) {
          split_channels(weight + (first + i) * stride + k, depth - k,
                         reinterpret_cast<std::uint32_t*>(upper + 16 * i),
                         reinterpret_cast<std::uint32_t*>(lower + 16 * i));
        }
        transpose(upper, 16, count, 16, upper_tile, 16);
        if (kHalves == 2) transpose(lower, 16, count, 16, lower_tile, 16);
      }
    }
  }
}

// The left side of a product: for 32 tokens after 32 tokens, for 32 channels after 32 channels, two
// tiles of upper halves, two of lower ones.
struct TokenOperand {
  const std::uint32_t* words;
};

// operand_of reads just the tokens there are, and products no others.
constexpr bool kReadsNoMore = true;

// Memory that an operand takes besides its tokens; they are not needed when it is made.
constexpr bool kOperandsAreTokens = false;
constexpr int64_t operand_floats(int64_t tokens, int64_t depth) {
  return rounded_up(tokens, kTokens) * rounded_up(depth, kTileDepth) * kHalves / 2;
}

// Where the words of a token's first channels lie.
inline std::uint32_t* operand_place(float* memory, int64_t token, int64_t blocks) {
  return reinterpret_cast<std::uint32_t*>(memory) + token / kTokens * blocks * kPairWords +
         token % kTokens / 16 * kTileWords + token % 16 * 16;
}

ICMH_TARGET inline TokenOperand operand_of(const float* tokens, int64_t stride, int64_t count,
                                           int64_t depth, float* memory) {
  const int64_t blocks = rounded_up(depth, kTileDepth) / kTileDepth;
  for (int64_t t = 0; t < count; ++t) {
    const float* const in = tokens + t * stride;
    std::uint32_t* place = operand_place(memory, t, blocks);
    for (int64_t k = 0; k < depth; k += kTileDepth, place += kPairWords) {
      split_channels(in + k, depth - k, place, place + 2 * kTileWords);
    }
  }
  // Loads of tiles do not tell the compiler what they read.
  asm volatile("" : : "r"(memory) : "memory");
  return {reinterpret_cast<const std::uint32_t*>(memory)};
}

inline TokenOperand operand_of(const TokenResult& result) {
  return {reinterpret_cast<const std::uint32_t*>(result.operand)};
}

// Sums of 32 tokens and 32 outputs over all blocks of the depth. A tile multiplies for so long that
// vectors can do something else meanwhile: `between` is called kSteps times a block.
constexpr int64_t kSteps = kHalves == 2 ? 3 : 1;

template <class Between>
ICMH_TARGET inline void sum_tiles(const std::uint32_t* left, const std::uint32_t* right,
                                  int64_t blocks, float* sums, const Between& between) {
  constexpr int kBytes = kOutputs * static_cast<int>(sizeof(float));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; ++block, left += kPairWords, right += kPairWords) {
    _tile_loadd(4, left, 64);
    _tile_loadd(5, left + kTileWords, 64);
#ifndef ICMH_BFLOAT16
    _tile_loadd(6, right + 2 * kTileWords, 64);
    _tile_loadd(7, right + 3 * kTileWords, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    between();
#endif
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + kTileWords, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    between();
#ifndef ICMH_BFLOAT16
    _tile_loadd(4, left + 2 * kTileWords, 64);
    _tile_loadd(5, left + 3 * kTileWords, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    between();
#endif
  }
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + 16, kBytes);
  _tile_stored(2, sums + 16 * kOutputs, kBytes);
  _tile_stored(3, sums + 16 * kOutputs + 16, kBytes);
}

// result[t][o] = then(bias[o] + sum_k in[t][k] weight[o][k], base[t][o]) of all tokens and outputs.
template <Then kThen>
ICMH_TARGET void multiply_tokens(const TokenOperand& in, int64_t tokens, int64_t depth,
                                 const float* packed, const float* bias, int64_t outputs,
                                 const float* base, int64_t base_stride,
                                 const TokenResult& result) {
  using V = Vector;
  const int64_t blocks = (depth + kTileDepth - 1) / kTileDepth;
  const int64_t result_blocks = (outputs + kOutputs - 1) / kOutputs;
  const auto* weights = reinterpret_cast<const std::uint32_t*>(packed);
  alignas(64) float sums[2][kTokens * kOutputs];
  // What becomes of the last sums, by some tokens at a time while tiles compute the next ones.
  const float *sum = nullptr, *with = nullptr;
  float* out = nullptr;
  std::uint32_t* words = nullptr;
  V::F first_bias = V::zero(), second_bias = V::zero();
  int64_t token = 0, last = 0, there = 0;
  const auto finish = [&](int64_t some) ICMH_LAMBDA {
    const int64_t end = token + some < last ? token + some : last;
    for (; token < end; ++token, sum += kOutputs, with += base_stride) {
      V::F first = then<kThen>(V::add(first_bias, V::load(sum)), with);
      V::F second = then<kThen>(V::add(second_bias, V::load(sum + 16)), with + 16);
      if (out != nullptr) {
        V::store(out, first);
        V::store(out + 16, second);
        out += result.stride;
      }
      if (words != nullptr) {
        if (there < kOutputs) {
          // Whatever is behind the outputs may be no number, which zero weights would not hide.
          first = _mm512_maskz_mov_ps(V::first(there), first);
          second = _mm512_maskz_mov_ps(V::first(there > 16 ? there - 16 : 0), second);
        }
        std::uint32_t* const place = words + token / 16 * kTileWords + token % 16 * 16;
        split_vectors(first, second, place, place + 2 * kTileWords);
      }
    }
  };
  const int64_t step = (kTokens + kSteps * blocks - 1) / (kSteps * blocks);
  int parity = 0;
  for (int64_t o = 0; o < outputs; o += kOutputs, weights += blocks * kPairWords) {
    for (int64_t t = 0; t < tokens; t += kTokens, parity ^= 1) {
      sum_tiles(in.words + t / kTokens * blocks * kPairWords, weights, blocks, sums[parity],
                [&]() ICMH_LAMBDA { finish(step); });
      finish(kTokens);
      // Stores of tiles do not tell the compiler what they write.
      asm volatile("" : : "r"(sums) : "memory");
      sum = sums[parity];
      with = base + t * base_stride + o;
      out = result.out == nullptr ? nullptr : result.out + t * result.stride + o;
      words = result.operand == nullptr
                  ? nullptr
                  : operand_place(result.operand, t, result_blocks) + o / kOutputs * kPairWords;
      first_bias = V::load(bias + o);
      second_bias = V::load(bias + o + 16);
      token = 0;
      last = tokens - t < kTokens ? tokens - t : kTokens;
      there = outputs - o;
    }
  }
  finish(kTokens);
  asm volatile("" : : "r"(result.operand) : "memory");
}

}  // namespace
}  // namespace icmh::kernels
