#include "kernels/quantize_index_cpu.h"

#include <cstring>
#include <limits>

namespace icmh::kernels {
namespace {

// Bits of floats.
constexpr std::uint32_t kSign = 0x80000000u;
constexpr std::uint32_t kInfinity = 0x7F800000u;
constexpr std::uint32_t kSymbolLimit = 0x48000000u;  // 2^17
constexpr float kRounder = 12582912.0f;    // 1.5 * 2^23
constexpr std::int64_t kPiece = 1 << 20;   // values counted in 32 bits at once
constexpr std::int32_t kIndexBlock = 64;
constexpr std::int64_t kMaxThresholds = 255;

using QuantizeRow = std::int64_t (*)(const float*, const float*, const float*, std::int64_t,
                                     std::int32_t*);
using IndexRow = std::int64_t (*)(const float*, std::int64_t, const float*, std::int32_t,
                                  std::int32_t, std::uint8_t*);

// For the build's own instruction set, which on aarch64 has NEON.
namespace portable {
#define ICMH_TARGET
#include "kernels/quantize_index_loops.h"
#undef ICMH_TARGET
}  // namespace portable

#ifdef ICMH_SIMD_X86
namespace avx2 {
#define ICMH_TARGET __attribute__((target("avx2")))
#include "kernels/quantize_index_loops.h"
#undef ICMH_TARGET
}  // namespace avx2

namespace avx512 {
#define ICMH_TARGET __attribute__((target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")))
#include "kernels/quantize_index_loops.h"
#undef ICMH_TARGET
}  // namespace avx512
#endif

struct Loops {
  QuantizeRow quantize;
  IndexRow index;
};

Loops loops_of(const QuantizeIndex& maps, SimdLevel level) {
  const bool gain = maps.gain != nullptr;
  const bool gain_of_row = maps.gain_period > 0;
  const bool mean = maps.mean != nullptr;
  switch (level) {
#ifdef ICMH_SIMD_X86
    case SimdLevel::avx512:
      return {avx512::quantize_row_of(gain, gain_of_row, mean), avx512::index_row};
    case SimdLevel::avx2:
      return {avx2::quantize_row_of(gain, gain_of_row, mean), avx2::index_row};
#endif
    default:
      return {portable::quantize_row_of(gain, gain_of_row, mean), portable::index_row};
  }
}

}  // namespace

std::int64_t quantize_index(const QuantizeIndex& maps, std::int64_t begin, std::int64_t end,
                            SimdLevel level) {
  if (!simd_level_supported(level) || maps.num_thresholds > kMaxThresholds) return -1;
  const Loops loops = loops_of(maps, level);
  float table[kMaxThresholds];
  std::int32_t steps = 0;
  if (maps.scales != nullptr) {
    while ((std::int64_t{1} << steps) - 1 < maps.num_thresholds) ++steps;
    for (std::int64_t i = 0; i < (std::int64_t{1} << steps) - 1; ++i) {
      table[i] = i < maps.num_thresholds ? maps.thresholds[i]
                                         : std::numeric_limits<float>::infinity();
    }
  }
  std::int64_t bad = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const float* const mean = maps.mean == nullptr ? nullptr : maps.mean + row * maps.mean_stride;
    for (std::int64_t first = 0; first < maps.length; first += kPiece) {
      const std::int64_t at = row * maps.length + first;
      const std::int64_t count = maps.length - first < kPiece ? maps.length - first : kPiece;
      const float* gain = maps.gain;
      if (gain != nullptr) gain += maps.gain_period > 0 ? row % maps.gain_period : first;
      bad += loops.quantize(maps.latent + at, gain, mean == nullptr ? nullptr : mean + first,
                            count, maps.symbols + at);
      if (maps.scales != nullptr) {
        bad += loops.index(maps.scales + at, count, table, steps,
                           static_cast<std::int32_t>(maps.num_thresholds), maps.indexes + at);
      }
    }
  }
  return bad;
}

}  // namespace icmh::kernels
