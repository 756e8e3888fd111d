#include "kernels/integer_network.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "common/simd.h"
#include "common/openmp.h"

#ifdef ICMH_SIMD_X86
#if !defined(__clang__)
// GCC 12 warns about the deliberately undefined operands inside its own intrinsics (PR 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define ICMH_INLINE inline __attribute__((always_inline))
#else
#define ICMH_INLINE inline
#endif

namespace icmh {
namespace {

constexpr std::int64_t kBlock = 16;         // output rows packed together; channels are padded to it
constexpr std::int64_t kChunkPixels = 96;   // pixels that pass under one group of rows at a time
constexpr std::int64_t kMaxSide = 1 << 20;  // of z; keeps every product below far inside int64
constexpr std::int64_t kMaxChannels = 1 << 14;
constexpr std::int32_t kMaxShift = 23;
// Below this many multiply-adds a thread costs more than it brings.
constexpr std::int64_t kWorkPerThread = std::int64_t{4} << 20;
constexpr std::int64_t kPartsPerThread = 4;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

std::int32_t half_of(std::int32_t shift) { return shift > 0 ? 1 << (shift - 1) : 0; }

std::int32_t clamp(std::int32_t value, std::int32_t low, std::int32_t high) {
  return value < low ? low : value > high ? high : value;
}

// One layer, as given (for the definition) and packed (for the tiles).
struct PackedLayer {
  IntegerOp op;
  bool shuffle;
  std::int64_t in_channels;
  std::int64_t out_channels;
  // As given.
  std::vector<std::int16_t> weight;
  std::vector<std::int32_t> given_bias;
  std::vector<std::int32_t> given_shift;
  std::vector<std::int32_t> given_low;
  std::vector<std::int32_t> given_high;
  // Packed. Rows are reordered so that those which land on one pixel of the output are neighbours
  // ((dy, dx, c) instead of (c, dy, dx) with a shuffle) and padded per pixel to kBlock; the padding
  // computes zeros. The half of the shift is folded into the bias.
  std::int64_t rows;
  std::int64_t segments;      // runs of contiguous inputs under one output pixel
  std::int64_t pairs;         // int16 pairs in a run
  std::int64_t block_stride;  // int16 between blocks of kBlock rows
  std::vector<std::int16_t> packed;  // [rows / kBlock][segments][pairs][kBlock][2]
  std::vector<std::int32_t> taps;    // depthwise: [9][rows]
  std::vector<std::int32_t> bias;
  std::vector<std::int32_t> shift;
  std::vector<std::int32_t> low;
  std::vector<std::int32_t> high;
  std::vector<std::int32_t> block_line;    // per block: dy
  std::vector<std::int32_t> block_column;  // per block: offset within the line, in int16

  // Where a row goes, relative to the (top left) output pixel.
  std::int64_t offset(std::int64_t row, std::int64_t row_stride) const {
    const auto block = static_cast<std::size_t>(row / kBlock);
    return block_line[block] * row_stride + block_column[block] + row % kBlock;
  }
  std::int64_t multiply_adds(std::int64_t pixels) const {
    const std::int64_t depth = op == IntegerOp::depthwise3x3 ? 9
                               : op == IntegerOp::conv3x3    ? 9 * in_channels
                                                             : in_channels;
    return pixels * out_channels * depth;
  }
};

// A channels-last int16 feature map with `pad` (0 or 1) pixels of zeros around it.
struct Map {
  std::int16_t* data;
  std::int64_t height;
  std::int64_t width;
  std::int64_t channels;  // padded to kBlock
  std::int64_t pad;

  std::int64_t row_pixels() const { return width + 2 * pad; }
  std::int64_t row_stride() const { return row_pixels() * channels; }
  std::int64_t at(std::int64_t y, std::int64_t x) const {
    return ((y + pad) * row_pixels() + x + pad) * channels;
  }
};

struct PixelTarget {
  std::int16_t* hidden;
  std::int64_t row_stride;
  std::int32_t* mean;
  std::uint8_t* index;
};

// Where a layer writes: a hidden map, or (hidden.data null) the two dense results.
struct Output {
  Map hidden;
  std::int32_t* mean;
  std::uint8_t* index;
  std::int64_t latent_channels;

  PixelTarget target(std::int64_t y, std::int64_t x, std::int64_t pixel, bool shuffle) const {
    PixelTarget result{nullptr, hidden.row_stride(), nullptr, nullptr};
    if (hidden.data != nullptr) {
      result.hidden = hidden.data + (shuffle ? hidden.at(2 * y, 2 * x) : hidden.at(y, x));
    }
    if (mean != nullptr) result.mean = mean + pixel * latent_channels;
    if (index != nullptr) result.index = index + pixel * latent_channels;
    return result;
  }
};

// The heads' tables at one quality, padded to the heads' packed rows.
struct HeadTables {
  std::int64_t channels;
  const std::int32_t* multiplier;
  const std::int32_t* half;
  const std::int32_t* shift;
  std::int32_t mean_limit;
  const std::int32_t* index_offset;  // with the half of index_bits added
  std::int32_t index_bits;
  std::int32_t scales;
};

using LayerFunction = void (*)(const PackedLayer&, const Map&, const Output&, const HeadTables&,
                               std::int64_t, std::int64_t);

// What one instruction set provides.
struct LevelFunctions {
  LayerFunction hidden;
  LayerFunction mean;
  LayerFunction index;
};

// The definition: no packing, no padding tricks, one output value at a time.
namespace scalar {

std::int32_t layer_row(const PackedLayer& layer, const Map& input, std::int64_t y, std::int64_t x,
                       std::int64_t row) {
  std::int32_t sum = layer.given_bias[static_cast<std::size_t>(row)];
  const std::int64_t reach = layer.op == IntegerOp::conv1x1 ? 0 : 1;
  const std::int64_t side = 2 * reach + 1;
  const bool depthwise = layer.op == IntegerOp::depthwise3x3;
  const std::int64_t depth = depthwise ? 1 : layer.in_channels;
  for (std::int64_t dy = -reach; dy <= reach; ++dy) {
    for (std::int64_t dx = -reach; dx <= reach; ++dx) {
      if (y + dy < 0 || y + dy >= input.height || x + dx < 0 || x + dx >= input.width) continue;
      const std::int16_t* values = input.data + input.at(y + dy, x + dx);
      const std::int64_t tap = (dy + reach) * side + dx + reach;
      const std::int16_t* weights = layer.weight.data() + (row * side * side + tap) * depth;
      for (std::int64_t c = 0; c < depth; ++c) sum += values[depthwise ? row : c] * weights[c];
    }
  }
  const auto at = static_cast<std::size_t>(row);
  const std::int32_t shift = layer.given_shift[at];
  return clamp((sum + half_of(shift)) >> shift, layer.given_low[at], layer.given_high[at]);
}

void hidden_layer(const PackedLayer& layer, const Map& input, const Output& output,
                  const HeadTables&, std::int64_t begin, std::int64_t end) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    const std::int64_t y = pixel / input.width;
    const std::int64_t x = pixel % input.width;
    for (std::int64_t row = 0; row < layer.out_channels; ++row) {
      const auto value = static_cast<std::int16_t>(layer_row(layer, input, y, x, row));
      const Map& map = output.hidden;
      if (layer.shuffle) {
        map.data[map.at(2 * y + row % 4 / 2, 2 * x + row % 2) + row / 4] = value;
      } else {
        map.data[map.at(y, x) + row] = value;
      }
    }
  }
}

void mean_layer(const PackedLayer& layer, const Map& input, const Output& output,
                const HeadTables& tables, std::int64_t begin, std::int64_t end) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    for (std::int64_t c = 0; c < layer.out_channels; ++c) {
      const std::int32_t value =
          layer_row(layer, input, pixel / input.width, pixel % input.width, c);
      const std::int32_t product = value * tables.multiplier[c] + half_of(tables.shift[c]);
      output.mean[pixel * layer.out_channels + c] =
          clamp(product >> tables.shift[c], -tables.mean_limit, tables.mean_limit);
    }
  }
}

void index_layer(const PackedLayer& layer, const Map& input, const Output& output,
                 const HeadTables& tables, std::int64_t begin, std::int64_t end) {
  for (std::int64_t pixel = begin; pixel < end; ++pixel) {
    for (std::int64_t c = 0; c < layer.out_channels; ++c) {
      const std::int32_t value =
          layer_row(layer, input, pixel / input.width, pixel % input.width, c);
      output.index[pixel * layer.out_channels + c] = static_cast<std::uint8_t>(
          clamp((value + tables.index_offset[c]) >> tables.index_bits, 0, tables.scales - 1));
    }
  }
}

}  // namespace scalar

// Fixed-size loops that a compiler turns into whatever vectors the target has (NEON on aarch64).
namespace portable {

#define ICMH_TARGET
#define ICMH_WIDE_TILES 0
constexpr std::int64_t kLanes = 16;
constexpr int kTilePixels = 2;
constexpr std::int64_t kMaxVectors = 1;

struct Isa {
  struct V {
    std::int32_t lane[kLanes];
  };
  struct W {
    std::int16_t lane[2 * kLanes];
  };
  struct X {
    std::int16_t first;
    std::int16_t second;
  };
  static ICMH_INLINE V load(const std::int32_t* p) {
    V v;
    std::memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static ICMH_INLINE W load_weights(const std::int16_t* p) {
    W w;
    std::memcpy(w.lane, p, sizeof w.lane);
    return w;
  }
  static ICMH_INLINE X broadcast_pair(const std::int16_t* p) { return X{p[0], p[1]}; }
  static ICMH_INLINE V widen(const std::int16_t* p) {
    V v;
    for (int i = 0; i < kLanes; ++i) v.lane[i] = p[i];
    return v;
  }
  static ICMH_INLINE V splat(std::int32_t value) {
    V v;
    for (int i = 0; i < kLanes; ++i) v.lane[i] = value;
    return v;
  }
  static ICMH_INLINE V dot(V sum, const W& w, X x) {
    for (int i = 0; i < kLanes; ++i) {
      sum.lane[i] += w.lane[2 * i] * x.first + w.lane[2 * i + 1] * x.second;
    }
    return sum;
  }
  static ICMH_INLINE V add(V a, const V& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static ICMH_INLINE V mul(V a, const V& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  static ICMH_INLINE V shift_right(V a, const V& b) {
    for (int i = 0; i < kLanes; ++i) a.lane[i] >>= b.lane[i];
    return a;
  }
  static ICMH_INLINE V clamp(V a, const V& low, const V& high) {
    for (int i = 0; i < kLanes; ++i) {
      const std::int32_t raised = a.lane[i] < low.lane[i] ? low.lane[i] : a.lane[i];
      a.lane[i] = raised > high.lane[i] ? high.lane[i] : raised;
    }
    return a;
  }
  static ICMH_INLINE void store32(std::int32_t* p, const V& v) {
    std::memcpy(p, v.lane, sizeof v.lane);
  }
  static ICMH_INLINE void store16(std::int16_t* p, const V& v) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::int16_t>(v.lane[i]);
  }
  static ICMH_INLINE void store8(std::uint8_t* p, const V& v) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::uint8_t>(v.lane[i]);
  }
};

#include "kernels/integer_network_tiles.h"
#undef ICMH_TARGET
#undef ICMH_WIDE_TILES

}  // namespace portable

#ifdef ICMH_SIMD_X86

namespace avx2 {

#define ICMH_TARGET __attribute__((target("avx2")))
#define ICMH_WIDE_TILES 0
// 6 x 2 sums, 2 weights, a broadcast pair and a product: the 16 registers.
constexpr std::int64_t kLanes = 8;
constexpr int kTilePixels = 6;
constexpr std::int64_t kMaxVectors = 2;

struct Isa {
  using V = __m256i;
  using W = __m256i;
  using X = __m256i;
  ICMH_TARGET static ICMH_INLINE V load(const std::int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  ICMH_TARGET static ICMH_INLINE W load_weights(const std::int16_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  ICMH_TARGET static ICMH_INLINE X broadcast_pair(const std::int16_t* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  ICMH_TARGET static ICMH_INLINE V widen(const std::int16_t* p) {
    return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  ICMH_TARGET static ICMH_INLINE V splat(std::int32_t value) { return _mm256_set1_epi32(value); }
  ICMH_TARGET static ICMH_INLINE V dot(V sum, W w, X x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
  }
  ICMH_TARGET static ICMH_INLINE V add(V a, V b) { return _mm256_add_epi32(a, b); }
  ICMH_TARGET static ICMH_INLINE V mul(V a, V b) { return _mm256_mullo_epi32(a, b); }
  ICMH_TARGET static ICMH_INLINE V shift_right(V a, V b) { return _mm256_srav_epi32(a, b); }
  ICMH_TARGET static ICMH_INLINE V clamp(V a, V low, V high) {
    return _mm256_min_epi32(_mm256_max_epi32(a, low), high);
  }
  // The packs saturate, but values lie inside the type already; they also work per 128-bit half,
  // which the permutation puts right.
  ICMH_TARGET static ICMH_INLINE __m128i narrow(V v) {
    const __m256i packed = _mm256_packs_epi32(v, v);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
  ICMH_TARGET static ICMH_INLINE void store32(std::int32_t* p, V v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  ICMH_TARGET static ICMH_INLINE void store16(std::int16_t* p, V v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v));
  }
  ICMH_TARGET static ICMH_INLINE void store8(std::uint8_t* p, V v) {
    const __m128i words = narrow(v);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
};

#include "kernels/integer_network_tiles.h"
#undef ICMH_TARGET
#undef ICMH_WIDE_TILES

}  // namespace avx2

// The two AVX-512 levels differ only in the dot product.
#define ICMH_AVX512_ISA(DOT)                                                                      \
  using V = __m512i;                                                                              \
  using W = __m512i;                                                                              \
  using X = __m512i;                                                                              \
  ICMH_TARGET static ICMH_INLINE V load(const std::int32_t* p) { return _mm512_loadu_si512(p); }  \
  ICMH_TARGET static ICMH_INLINE W load_weights(const std::int16_t* p) {                          \
    return _mm512_loadu_si512(p);                                                                 \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE X broadcast_pair(const std::int16_t* p) {                        \
    std::int32_t pair;                                                                            \
    std::memcpy(&pair, p, sizeof pair);                                                           \
    return _mm512_set1_epi32(pair);                                                               \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE V widen(const std::int16_t* p) {                                 \
    return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));        \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE V splat(std::int32_t value) { return _mm512_set1_epi32(value); } \
  ICMH_TARGET static ICMH_INLINE V dot(V sum, W w, X x) { return DOT; }                           \
  ICMH_TARGET static ICMH_INLINE V add(V a, V b) { return _mm512_add_epi32(a, b); }               \
  ICMH_TARGET static ICMH_INLINE V mul(V a, V b) { return _mm512_mullo_epi32(a, b); }             \
  ICMH_TARGET static ICMH_INLINE V shift_right(V a, V b) { return _mm512_srav_epi32(a, b); }      \
  ICMH_TARGET static ICMH_INLINE V clamp(V a, V low, V high) {                                    \
    return _mm512_min_epi32(_mm512_max_epi32(a, low), high);                                      \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE void store32(std::int32_t* p, V v) {                             \
    _mm512_storeu_si512(p, v);                                                                    \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE void store16(std::int16_t* p, V v) {                             \
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));                 \
  }                                                                                               \
  ICMH_TARGET static ICMH_INLINE void store8(std::uint8_t* p, V v) {                              \
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));                     \
  }

// 6 x 4 sums, 4 weights and a broadcast pair: 29 of the 32 registers.
#define ICMH_WIDE_TILES 1

namespace avx512 {

#define ICMH_TARGET __attribute__((target("avx512f,avx512bw")))
constexpr std::int64_t kLanes = 16;
constexpr int kTilePixels = 6;
constexpr std::int64_t kMaxVectors = 4;
struct Isa {
  ICMH_AVX512_ISA(_mm512_add_epi32(sum, _mm512_madd_epi16(w, x)))
};
#include "kernels/integer_network_tiles.h"
#undef ICMH_TARGET

}  // namespace avx512

namespace avx512vnni {

#define ICMH_TARGET __attribute__((target("avx512f,avx512bw,avx512vnni")))
constexpr std::int64_t kLanes = 16;
constexpr int kTilePixels = 6;
constexpr std::int64_t kMaxVectors = 4;
struct Isa {
  ICMH_AVX512_ISA(_mm512_dpwssd_epi32(sum, w, x))
};
#include "kernels/integer_network_tiles.h"
#undef ICMH_TARGET

}  // namespace avx512vnni

#undef ICMH_WIDE_TILES
#undef ICMH_AVX512_ISA

#endif  // ICMH_SIMD_X86

LevelFunctions functions_of(IntegerLevel level) {
  switch (level) {
    case IntegerLevel::portable:
      return {portable::hidden_layer, portable::mean_layer, portable::index_layer};
#ifdef ICMH_SIMD_X86
    case IntegerLevel::avx2:
      return {avx2::hidden_layer, avx2::mean_layer, avx2::index_layer};
    case IntegerLevel::avx512:
      return {avx512::hidden_layer, avx512::mean_layer, avx512::index_layer};
    case IntegerLevel::avx512vnni:
      return {avx512vnni::hidden_layer, avx512vnni::mean_layer, avx512vnni::index_layer};
#endif
    default:
      return {scalar::hidden_layer, scalar::mean_layer, scalar::index_layer};
  }
}

// Runs work(begin, end) over [0, pixels) on up to `threads` threads; the caller's is one of them.
template <class Work>
void parallel_over_pixels(std::int64_t pixels, std::int64_t multiply_adds, std::int32_t threads,
                          const Work& work) {
  const std::int64_t chunks = (pixels + kChunkPixels - 1) / kChunkPixels;
  const std::int64_t most = std::max<std::int64_t>(
      1, std::min<std::int64_t>({threads, chunks, multiply_adds / kWorkPerThread}));
  // Several parts a thread, so that one which comes late leaves more of them to the others.
  const std::int64_t parts = most == 1 ? 1 : std::min(chunks, kPartsPerThread * most);
  const auto begin_of = [&](std::int64_t part) {
    return std::min(pixels, chunks * part / parts * kChunkPixels);
  };
  const auto run_part = [&](std::size_t index) {
    const auto part = static_cast<std::int64_t>(index);
    work(begin_of(part), begin_of(part + 1));
  };
  parallel_for_kernels(static_cast<std::size_t>(parts),
                       most == 1 ? 1 : static_cast<unsigned>(threads), std::cref(run_part));
}

bool pack_layer(const IntegerLayerView& view, PackedLayer& layer) {
  const bool depthwise = view.op == IntegerOp::depthwise3x3;
  const bool known = depthwise || view.op == IntegerOp::conv1x1 || view.op == IntegerOp::conv3x3;
  if (!known || view.in_channels < 1 || view.in_channels > kMaxChannels || view.out_channels < 1 ||
      view.out_channels > kMaxChannels || (view.shuffle && view.out_channels % 4 != 0) ||
      (depthwise && (view.shuffle || view.in_channels != view.out_channels))) {
    return false;
  }
  for (std::int32_t row = 0; row < view.out_channels; ++row) {
    if (view.shift[row] > kMaxShift || view.low[row] > view.high[row] || view.low[row] < -32768 ||
        view.high[row] > 32767) {
      return false;
    }
  }
  layer.op = view.op;
  layer.shuffle = view.shuffle;
  layer.in_channels = view.in_channels;
  layer.out_channels = view.out_channels;
  const std::int64_t taps = view.op == IntegerOp::conv1x1 ? 1 : 9;
  const std::int64_t depth = depthwise ? 1 : layer.in_channels;
  layer.weight.assign(view.weight, view.weight + layer.out_channels * taps * depth);
  layer.given_bias.assign(view.bias, view.bias + layer.out_channels);
  layer.given_shift.assign(view.shift, view.shift + layer.out_channels);
  layer.given_low.assign(view.low, view.low + layer.out_channels);
  layer.given_high.assign(view.high, view.high + layer.out_channels);

  const std::int64_t parts = layer.shuffle ? 4 : 1;
  const std::int64_t part_channels = layer.out_channels / parts;
  const std::int64_t part_rows = round_up(part_channels, kBlock);
  const std::int64_t stored_inputs = round_up(layer.in_channels, kBlock);
  layer.rows = parts * part_rows;
  layer.segments = view.op == IntegerOp::conv3x3 ? 3 : 1;
  const std::int64_t taps_in_segment = view.op == IntegerOp::conv3x3 ? 3 : 1;
  layer.pairs = taps_in_segment * stored_inputs / 2;
  layer.block_stride = layer.segments * layer.pairs * 2 * kBlock;
  const auto rows = static_cast<std::size_t>(layer.rows);
  layer.bias.assign(rows, 0);
  layer.shift.assign(rows, 0);
  layer.low.assign(rows, 0);
  layer.high.assign(rows, 0);
  if (depthwise) {
    layer.taps.assign(9 * rows, 0);
  } else {
    layer.packed.assign(static_cast<std::size_t>(layer.rows / kBlock * layer.block_stride), 0);
  }
  for (std::int64_t block = 0; block < layer.rows / kBlock; ++block) {
    const std::int64_t part = block * kBlock / part_rows;
    layer.block_line.push_back(static_cast<std::int32_t>(part / 2));
    layer.block_column.push_back(
        static_cast<std::int32_t>(part % 2 * part_rows + block * kBlock % part_rows));
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    for (std::int64_t channel = 0; channel < part_channels; ++channel) {
      const std::int64_t given = channel * parts + part;
      const std::int64_t row = part * part_rows + channel;
      const auto to = static_cast<std::size_t>(row);
      layer.bias[to] = view.bias[given] + half_of(view.shift[given]);
      layer.shift[to] = view.shift[given];
      layer.low[to] = view.low[given];
      layer.high[to] = view.high[given];
      const std::int16_t* weights = view.weight + given * taps * depth;
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        if (depthwise) {
          layer.taps[static_cast<std::size_t>(tap * layer.rows + row)] = weights[tap];
          continue;
        }
        for (std::int64_t c = 0; c < depth; ++c) {
          // Position k in its run of contiguous inputs, and then its pair.
          const std::int64_t segment = tap / taps_in_segment;
          const std::int64_t k = tap % taps_in_segment * stored_inputs + c;
          const std::int64_t at = row / kBlock * layer.block_stride +
                                  (segment * layer.pairs + k / 2) * 2 * kBlock +
                                  row % kBlock * 2 + k % 2;
          layer.packed[static_cast<std::size_t>(at)] = weights[tap * depth + c];
        }
      }
    }
  }
  return true;
}

}  // namespace

class IntegerNetwork {
 public:
  std::vector<PackedLayer> trunk;
  PackedLayer mean_head;
  PackedLayer scale_head;
  std::int64_t z_channels;
  std::int64_t latent_channels;
  std::int64_t qualities;
  std::int64_t upsampling;
  std::vector<std::int32_t> z_multiplier;
  std::vector<std::int32_t> z_limit;
  std::int32_t z_shift;
  std::int32_t input_limit;
  std::vector<std::int32_t> mean_multiplier;
  std::vector<std::uint8_t> mean_shift;
  std::int32_t mean_limit;
  std::vector<std::int32_t> index_offset;
  std::int32_t index_bits;
  std::int32_t scales;

  void read_input(const std::int32_t* z, std::int64_t quality_row, const Map& map) const {
    const std::int32_t* multiplier = z_multiplier.data() + quality_row * z_channels;
    const std::int32_t* limit = z_limit.data() + quality_row * z_channels;
    const std::int32_t half = half_of(z_shift);
    for (std::int64_t y = 0; y < map.height; ++y) {
      for (std::int64_t x = 0; x < map.width; ++x) {
        std::int16_t* to = map.data + map.at(y, x);
        for (std::int64_t c = 0; c < z_channels; ++c) {
          const std::int32_t product = clamp(*z++, -limit[c], limit[c]) * multiplier[c];
          to[c] = static_cast<std::int16_t>(
              clamp((product + half) >> z_shift, -input_limit, input_limit));
        }
      }
    }
  }
};

void IntegerNetworkDeleter::operator()(IntegerNetwork* network) const { delete network; }

const char* integer_level_name(IntegerLevel level) {
  switch (level) {
    case IntegerLevel::scalar:
      return "scalar";
    case IntegerLevel::portable:
      return "portable";
    case IntegerLevel::avx2:
      return "avx2";
    case IntegerLevel::avx512:
      return "avx512";
    case IntegerLevel::avx512vnni:
      return "avx512vnni";
  }
  return "unknown";
}

bool integer_level_supported(IntegerLevel level) {
  if (level == IntegerLevel::scalar || level == IntegerLevel::portable) return true;
#ifdef ICMH_SIMD_X86
  if (level == IntegerLevel::avx2) return __builtin_cpu_supports("avx2") != 0;
  const bool wide =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  if (level == IntegerLevel::avx512) return wide;
  if (level == IntegerLevel::avx512vnni) {
    return wide && __builtin_cpu_supports("avx512vnni") != 0;
  }
#endif
  return false;
}

IntegerLevel integer_level_best() {
  IntegerLevel best = IntegerLevel::portable;
  const SimdLevel bound = simd_level();
  if (bound != SimdLevel::avx2 && bound != SimdLevel::avx512) return best;
  const IntegerLevel highest =
      bound == SimdLevel::avx2 ? IntegerLevel::avx2 : IntegerLevel::avx512vnni;
  for (const auto level : {IntegerLevel::avx2, IntegerLevel::avx512, IntegerLevel::avx512vnni}) {
    if (level <= highest && integer_level_supported(level)) best = level;
  }
  return best;
}

IntegerNetworkPointer integer_network_pack(const IntegerNetworkView& view) {
  IntegerNetworkPointer network(new IntegerNetwork());
  if (view.trunk_layers < 0 || view.qualities < 1 || view.z_shift < 0 ||
      view.z_shift > kMaxShift || view.input_limit < 0 || view.input_limit > 32767 ||
      view.mean_limit < 0 || view.index_bits < 0 || view.index_bits > kMaxShift ||
      view.scales < 1 || view.scales > 256) {
    return nullptr;
  }
  network->upsampling = 1;
  std::int32_t channels = view.trunk_layers > 0 ? view.trunk[0].in_channels
                                                : view.mean_head.in_channels;
  network->z_channels = channels;
  network->trunk.resize(static_cast<std::size_t>(view.trunk_layers));
  for (std::int32_t i = 0; i < view.trunk_layers; ++i) {
    const IntegerLayerView& layer = view.trunk[i];
    if (layer.in_channels != channels ||
        !pack_layer(layer, network->trunk[static_cast<std::size_t>(i)])) {
      return nullptr;
    }
    channels = layer.shuffle ? layer.out_channels / 4 : layer.out_channels;
    if (layer.shuffle) network->upsampling *= 2;
  }
  const IntegerLayerView& mean = view.mean_head;
  const IntegerLayerView& scale = view.scale_head;
  if (network->upsampling > 64 || mean.op != IntegerOp::conv1x1 || mean.shuffle ||
      mean.in_channels != channels || scale.op != IntegerOp::conv1x1 || scale.shuffle ||
      scale.in_channels != channels || scale.out_channels != mean.out_channels ||
      !pack_layer(mean, network->mean_head) || !pack_layer(scale, network->scale_head)) {
    return nullptr;
  }
  network->latent_channels = mean.out_channels;
  network->qualities = view.qualities;
  const std::int64_t z_entries = network->qualities * network->z_channels;
  const std::int64_t entries = network->qualities * network->latent_channels;
  for (std::int64_t i = 0; i < z_entries; ++i) {
    if (view.z_limit[i] < 0) return nullptr;
  }
  for (std::int64_t i = 0; i < entries; ++i) {
    if (view.mean_shift[i] > kMaxShift) return nullptr;
  }
  network->z_multiplier.assign(view.z_multiplier, view.z_multiplier + z_entries);
  network->z_limit.assign(view.z_limit, view.z_limit + z_entries);
  network->mean_multiplier.assign(view.mean_multiplier, view.mean_multiplier + entries);
  network->mean_shift.assign(view.mean_shift, view.mean_shift + entries);
  network->index_offset.assign(view.index_offset, view.index_offset + entries);
  network->z_shift = view.z_shift;
  network->input_limit = view.input_limit;
  network->mean_limit = view.mean_limit;
  network->index_bits = view.index_bits;
  network->scales = view.scales;
  return network;
}

std::int32_t integer_network_z_channels(const IntegerNetwork& network) {
  return static_cast<std::int32_t>(network.z_channels);
}
std::int32_t integer_network_latent_channels(const IntegerNetwork& network) {
  return static_cast<std::int32_t>(network.latent_channels);
}
std::int32_t integer_network_qualities(const IntegerNetwork& network) {
  return static_cast<std::int32_t>(network.qualities);
}
std::int32_t integer_network_upsampling(const IntegerNetwork& network) {
  return static_cast<std::int32_t>(network.upsampling);
}

bool integer_network_run(const IntegerNetwork& network, const std::int32_t* z, std::int64_t height,
                         std::int64_t width, std::int32_t quality_row, IntegerLevel level,
                         std::int32_t threads, std::int32_t* mean, std::uint8_t* index) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide || quality_row < 0 ||
      quality_row >= network.qualities || threads < 1 || !integer_level_supported(level)) {
    return false;
  }
  const LevelFunctions functions = functions_of(level);

  const std::int64_t rows = network.mean_head.rows;
  std::vector<std::int32_t> table(static_cast<std::size_t>(4 * rows), 0);
  for (std::int64_t c = 0; c < network.latent_channels; ++c) {
    const auto at = static_cast<std::size_t>(quality_row * network.latent_channels + c);
    const std::int32_t shift = network.mean_shift[at];
    table[static_cast<std::size_t>(c)] = network.mean_multiplier[at];
    table[static_cast<std::size_t>(rows + c)] = half_of(shift);
    table[static_cast<std::size_t>(2 * rows + c)] = shift;
    table[static_cast<std::size_t>(3 * rows + c)] =
        network.index_offset[at] + half_of(network.index_bits);
  }
  const HeadTables tables{network.latent_channels, table.data(),          table.data() + rows,
                          table.data() + 2 * rows, network.mean_limit,    table.data() + 3 * rows,
                          network.index_bits,      network.scales};

  // Two maps in turn; a map that a 3x3 layer reads has a border of zeros.
  const auto pad_before = [&](std::size_t next) {
    return next < network.trunk.size() && network.trunk[next].op != IntegerOp::conv1x1 ? 1 : 0;
  };
  std::vector<std::int16_t> storage[2];
  const auto new_map = [&](std::size_t which, std::int64_t map_height, std::int64_t map_width,
                           std::int64_t channels, std::int64_t pad) {
    const std::int64_t stored = round_up(channels, kBlock);
    storage[which].assign(
        static_cast<std::size_t>((map_height + 2 * pad) * (map_width + 2 * pad) * stored), 0);
    return Map{storage[which].data(), map_height, map_width, stored, pad};
  };
  Map map = new_map(0, height, width, network.z_channels, pad_before(0));
  network.read_input(z, quality_row, map);

  for (std::size_t i = 0; i < network.trunk.size(); ++i) {
    const PackedLayer& layer = network.trunk[i];
    const std::int64_t factor = layer.shuffle ? 2 : 1;
    const Output output{
        new_map((i + 1) % 2, factor * map.height, factor * map.width,
                layer.out_channels / (factor * factor), pad_before(i + 1)),
        nullptr, nullptr, 0};
    const std::int64_t pixels = map.height * map.width;
    parallel_over_pixels(pixels, layer.multiply_adds(pixels), threads,
                         [&](std::int64_t begin, std::int64_t end) {
                           functions.hidden(layer, map, output, tables, begin, end);
                         });
    map = output.hidden;
  }

  const std::int64_t pixels = map.height * map.width;
  const Output output{Map{nullptr, 0, 0, 0, 0}, mean, index, network.latent_channels};
  parallel_over_pixels(pixels, 2 * network.mean_head.multiply_adds(pixels), threads,
                       [&](std::int64_t begin, std::int64_t end) {
                         functions.mean(network.mean_head, map, output, tables, begin, end);
                         functions.index(network.scale_head, map, output, tables, begin, end);
                       });
  return true;
}

}  // namespace icmh
