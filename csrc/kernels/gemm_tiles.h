// The matrix product of kernels/gemm.h on AMX tiles, for a level that has them.
//
// A float is the sum of two bfloat16, the upper and the lower half of its digits, to 2^-18 of its
// magnitude; of the four products of two such sums the smallest is left out. Sums are floats. So a
// product has a relative error of 2^-17 at most, where tiles do 16 times the multiplications of
// vectors: 5 times as many products. Only for kernels whose results may differ in the last digits.
#pragma once

#include <immintrin.h>

#include "kernels/gemm.h"
#include "kernels/thread_memory.h"

namespace icmh::kernels {
namespace {

constexpr int64_t kTileSide = 16;    // of weights, and of positions
constexpr int64_t kTileDepth = 32;   // bfloat16 of a row
constexpr int64_t kTileWords = 256;  // 32-bit words of a tile
constexpr int64_t kColumnTiles = kPanel / kTileSide;
static_assert(kColumnTiles == 3, "six sums, and a tile for either side");

constexpr int64_t packed_tiles_size(int64_t rows, int64_t depth) {
  return rounded_up(rows, kTileSide) * rounded_up(depth, kTileDepth);
}

// While this lives, the thread's tiles have the shape that all products here use.
class Tiles {
 public:
  ICMH_TARGET Tiles() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t column_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    // GCC's intrinsic tells the compiler of the first eight bytes only: without this the stores of the
    // others may be left out.
    asm volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
  }
  ICMH_TARGET ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The upper half, rounded; what is left of x is the lower one.
inline float upper_half(float x) {
  const std::uint32_t bits = (bits_of(x) + 0x8000u) & 0xFFFF0000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Tiles of the matrix `scale` weight (rows, depth): for 16 rows after 16 rows, for 32 columns after
// 32 columns, the upper halves, then the lower ones. Zeros where the matrix ends.
inline void pack_tiles(const float* weight, int64_t rows, int64_t depth, int64_t stride, float scale,
                      float* packed) {
  auto* words = reinterpret_cast<std::uint32_t*>(packed);
  const auto at = [&](int64_t i, int64_t k) {
    return i < rows && k < depth ? scale * weight[i * stride + k] : 0.0f;
  };
  for (int64_t i = 0; i < rows; i += kTileSide) {
    for (int64_t k = 0; k < depth; k += kTileDepth, words += 2 * kTileWords) {
      for (int64_t word = 0; word < kTileWords; ++word) {
        const int64_t row = i + word / 16, column = k + 2 * (word % 16);
        const float a = at(row, column), b = at(row, column + 1);
        const float c = upper_half(a), d = upper_half(b);
        words[word] = bits_of(c) >> 16 | bits_of(d);
        words[kTileWords + word] =
            bits_of(upper_half(a - c)) >> 16 | bits_of(upper_half(b - d));
      }
    }
  }
}

// A panel as tiles: for 32 rows after 32 rows, the upper halves of its three tiles of 16 columns,
// then the lower ones. A word holds two rows.
ICMH_TARGET inline void convert_panel(const float* panel, int64_t depth, std::uint32_t* out) {
  const __m512i half = _mm512_set1_epi32(0x8000), mask = _mm512_set1_epi32(~0xFFFF);
  for (int64_t k = 0; k < rounded_up(depth, kTileDepth); k += 2) {
    std::uint32_t* const block = out + k / kTileDepth * 2 * kColumnTiles * kTileWords +
                                 k % kTileDepth / 2 * kTileSide;
#pragma GCC unroll 3
    for (int64_t j = 0; j < kColumnTiles; ++j) {
      const float* const in = panel + k * kPanel + j * kTileSide;
      const __m512 a = k < depth ? _mm512_loadu_ps(in) : _mm512_setzero_ps();
      const __m512 b = k + 1 < depth ? _mm512_loadu_ps(in + kPanel) : _mm512_setzero_ps();
      const __m512i c =
          _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(a), half), mask);
      const __m512i d =
          _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(b), half), mask);
      const __m512i e =
          _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(a, _mm512_castsi512_ps(c))), half);
      const __m512i f =
          _mm512_add_epi32(_mm512_castps_si512(_mm512_sub_ps(b, _mm512_castsi512_ps(d))), half);
      std::uint32_t* const place = block + j * kTileWords;
      _mm512_storeu_si512(place, _mm512_or_si512(_mm512_srli_epi32(c, 16), d));
      _mm512_storeu_si512(place + kColumnTiles * kTileWords,
                          _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(e, 16), f));
    }
  }
}

// Sums of 16 rows of weights and a panel's 48 columns. A tile multiplies for so long that vectors
// can do something else meanwhile: `between` is called three times a block.
template <class Between>
ICMH_TARGET inline void sum_rows(const std::uint32_t* weights, const std::uint32_t* columns,
                                 int64_t blocks, float* sums, const Between& between) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  for (int64_t block = 0; block < blocks; ++block) {
    const std::uint32_t* const lower = columns + kColumnTiles * kTileWords;
    _tile_loadd(3, weights + kTileWords, 64);
    _tile_loadd(5, columns, 64);
    _tile_loadd(6, columns + kTileWords, 64);
    _tile_loadd(7, columns + 2 * kTileWords, 64);
    _tile_dpbf16ps(0, 3, 5);
    _tile_dpbf16ps(1, 3, 6);
    _tile_dpbf16ps(2, 3, 7);
    between();
    _tile_loadd(4, weights, 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 4, 7);
    between();
    _tile_loadd(5, lower, 64);
    _tile_loadd(6, lower + kTileWords, 64);
    _tile_loadd(7, lower + 2 * kTileWords, 64);
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 4, 7);
    between();
    weights += 2 * kTileWords;
    columns += 2 * kColumnTiles * kTileWords;
  }
  constexpr int kBytes = kPanel * static_cast<int>(sizeof(float));
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + 16, kBytes);
  _tile_stored(2, sums + 32, kBytes);
}

// multiply_panel of kernels/gemm.h.
ICMH_TARGET inline void multiply_tiles(const float* packed, const float* panel, int64_t rows,
                                       int64_t depth, const float* bias, const float* residual,
                                       int64_t residual_stride, int64_t columns,
                                       const Rows& out) {
  using V = Vector;
  const int64_t blocks = (depth + kTileDepth - 1) / kTileDepth;
  std::uint32_t* const positions = tile_memory(blocks * 2 * kColumnTiles * kTileWords);
  convert_panel(panel, depth, positions);
  // The compiler is not told what loading a tile reads.
  asm volatile("" ::: "memory");
  const auto* weights = reinterpret_cast<const std::uint32_t*>(packed);
  alignas(64) float sums[2][kTileSide * kPanel];
  // What becomes of the last sums, by some rows at a time while tiles compute the next ones.
  const float* sum = nullptr;
  int64_t row = 0, last = 0;
  const auto finish = [&](int64_t some) ICMH_LAMBDA {
    const int64_t end = row + some < last ? row + some : last;
    for (; row < end; ++row, sum += kPanel) {
      const V::F start = bias == nullptr ? V::zero() : V::all(bias[row]);
#pragma GCC unroll 4
      for (int v = 0; v < V::kTileVectors; ++v) {
        const int64_t left = columns - v * V::kWidth;
        V::F value = V::add(start, V::load(sum + v * V::kWidth));
        if (residual != nullptr) {
          const float* const more = residual + row * residual_stride + v * V::kWidth;
          value = V::add(value, load_some(more, left));
        }
        store_row(out, row * out.stride + v * V::kWidth, value, left);
      }
    }
  };
  const int64_t step = (kTileSide + 3 * blocks - 1) / (3 * blocks);
  int parity = 0;
  for (int64_t first = 0; first < rows; first += kTileSide, parity ^= 1) {
    sum_rows(weights, positions, blocks, sums[parity], [&]() ICMH_LAMBDA { finish(step); });
    finish(kTileSide);
    // Stores of tiles do not tell the compiler what they write.
    asm volatile("" : : "r"(sums) : "memory");
    sum = sums[parity];
    row = first;
    last = rows - first < kTileSide ? rows : first + kTileSide;
    weights += blocks * 2 * kTileWords;
  }
  finish(kTileSide);
}

}  // namespace
}  // namespace icmh::kernels
