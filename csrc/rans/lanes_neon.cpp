#include "common/simd.h"

#ifdef ICMH_SIMD_NEON

#include <arm_neon.h>

#include <cstring>

#include "rans/lane_shuffles.h"

#define ICMH_TARGET  // every aarch64 has NEON
#include "rans/lanes_vector.h"

namespace icmh::rans {
namespace {

// Lane numbers as the bytes that a table lookup takes.
struct ByteShuffles {
  std::uint8_t bytes[16][16];
  static constexpr unsigned kZero = 0xFF;  // a lookup outside the table gives 0

  // Words of 2 bytes to the lanes of the mask; all else is 0.
  static constexpr ByteShuffles spread() {
    ByteShuffles result{};
    const auto lanes = LaneShuffles<4>::spread();
    for (unsigned mask = 0; mask < 16; ++mask) {
      for (unsigned lane = 0; lane < 4; ++lane) {
        const unsigned word = lanes.lanes[mask][lane];
        const bool taken = (mask >> lane & 1) != 0;
        for (unsigned byte = 0; byte < 4; ++byte) {
          result.bytes[mask][4 * lane + byte] =
              static_cast<std::uint8_t>(taken && byte < 2 ? 2 * word + byte : kZero);
        }
      }
    }
    return result;
  }

  // Words to words.
  static constexpr ByteShuffles pack() {
    ByteShuffles result{};
    const auto lanes = LaneShuffles<4>::pack();
    for (unsigned mask = 0; mask < 16; ++mask) {
      for (unsigned lane = 0; lane < 4; ++lane) {
        const unsigned word = lanes.lanes[mask][lane];
        result.bytes[mask][2 * lane] = static_cast<std::uint8_t>(2 * word);
        result.bytes[mask][2 * lane + 1] = static_cast<std::uint8_t>(2 * word + 1);
      }
    }
    return result;
  }
};
constexpr ByteShuffles kSpread = ByteShuffles::spread();
constexpr ByteShuffles kPack = ByteShuffles::pack();

struct Neon {
  static constexpr unsigned kWidth = 4;
  using U = uint32x4_t;
  using M = uint32x4_t;  // all bits of a lane
  using Shift = int32x4_t;

  ICMH_OP U load(const std::uint32_t* p) { return vld1q_u32(p); }
  ICMH_OP void store(std::uint32_t* p, U u) { vst1q_u32(p, u); }
  ICMH_OP U load_indexes(const std::uint8_t* p) {
    return vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p))));
  }
  ICMH_OP U load_indexes(const std::uint16_t* p) { return vmovl_u16(vld1_u16(p)); }
  ICMH_OP U load_indexes(const std::int32_t* p) { return vreinterpretq_u32_s32(vld1q_s32(p)); }
  ICMH_OP U load_symbols(const std::int8_t* p) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(four_bytes(p)));
    return vreinterpretq_u32_s32(vmovl_s16(vget_low_s16(wide)));
  }
  ICMH_OP U load_symbols(const std::int16_t* p) {
    return vreinterpretq_u32_s32(vmovl_s16(vld1_s16(p)));
  }
  ICMH_OP U load_symbols(const std::int32_t* p) { return vreinterpretq_u32_s32(vld1q_s32(p)); }
  ICMH_OP void store_symbols(std::int8_t* p, U u) {
    const uint16x4_t words = vmovn_u32(u);
    const uint32x2_t bytes = vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words)));
    const std::uint32_t four = vget_lane_u32(bytes, 0);
    std::memcpy(p, &four, sizeof(four));
  }
  ICMH_OP void store_symbols(std::int16_t* p, U u) {
    vst1_s16(p, vreinterpret_s16_u16(vmovn_u32(u)));
  }
  ICMH_OP void store_symbols(std::int32_t* p, U u) { vst1q_s32(p, vreinterpretq_s32_u32(u)); }

  ICMH_OP U splat(std::uint32_t scalar) { return vdupq_n_u32(scalar); }
  ICMH_OP U add(U a, U b) { return vaddq_u32(a, b); }
  ICMH_OP U sub(U a, U b) { return vsubq_u32(a, b); }
  ICMH_OP U mul(U a, U b) { return vmulq_u32(a, b); }
  ICMH_OP U bit_and(U a, U b) { return vandq_u32(a, b); }
  ICMH_OP U bit_or(U a, U b) { return vorrq_u32(a, b); }
  ICMH_OP U and_or(U a, U b, U c) { return bit_or(bit_and(a, b), c); }
  ICMH_OP U min_u32(U a, U b) { return vminq_u32(a, b); }
  ICMH_OP Shift shift(unsigned bits) { return vdupq_n_s32(static_cast<std::int32_t>(bits)); }
  ICMH_OP U shl(U u, Shift by) { return vshlq_u32(u, by); }
  ICMH_OP U shr(U u, Shift by) { return vshlq_u32(u, vnegq_s32(by)); }
  ICMH_OP U shr16(U u) { return vshrq_n_u32(u, 16); }
  ICMH_OP U sra16(U u) {
    return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(u), 16));
  }
  ICMH_OP U shr_lanes(U u, U by) { return shr(u, vreinterpretq_s32_u32(by)); }
  ICMH_OP U log2_floor(U u) { return sub(splat(31), vclzq_u32(u)); }
  ICMH_OP U mul_high(U a, U b) {
    const uint64x2_t low = vmull_u32(vget_low_u32(a), vget_low_u32(b));
    const uint64x2_t high = vmull_high_u32(a, b);
    return vuzp2q_u32(vreinterpretq_u32_u64(low), vreinterpretq_u32_u64(high));
  }

  ICMH_OP M at_least_s32(U a, U b) {
    return vcgeq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b));
  }
  ICMH_OP M at_least_u32(U a, U b) { return vcgeq_u32(a, b); }
  ICMH_OP M is_zero(U u) { return vceqzq_u32(u); }
  ICMH_OP M below_2_16(U u) { return vcltq_u32(u, splat(0x10000)); }
  ICMH_OP bool any(M m) { return vmaxvq_u32(m) != 0; }
  ICMH_OP unsigned bits(M m) {
    const std::uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(m, vld1q_u32(weights)));
  }
  ICMH_OP int count(M m) { return static_cast<int>(vaddvq_u32(vshrq_n_u32(m, 31))); }
  ICMH_OP U select(M m, U a, U b) { return vbslq_u32(m, a, b); }
  ICMH_OP U add_where(M m, U a, U b) { return add(a, bit_and(b, m)); }
  ICMH_OP U sub_where(M m, U a, U b) { return sub(a, bit_and(b, m)); }
  ICMH_OP U shl16_where(M m, U u) { return select(m, vshlq_n_u32(u, 16), u); }
  ICMH_OP U shr16_where(M m, U u) { return select(m, shr16(u), u); }

  ICMH_OP void gather(const void* base, U index, U* low, U* high) {
    const uint64x2_t first = pair(base, vgetq_lane_u32(index, 0), vgetq_lane_u32(index, 1));
    const uint64x2_t second = pair(base, vgetq_lane_u32(index, 2), vgetq_lane_u32(index, 3));
    *low = vuzp1q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second));
    *high = vuzp2q_u32(vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(second));
  }
  ICMH_OP U read_words(const std::uint8_t* p, M m) {
    const uint8x16_t words = vcombine_u8(vld1_u8(p), vdup_n_u8(0));
    return vreinterpretq_u32_u8(vqtbl1q_u8(words, vld1q_u8(kSpread.bytes[bits(m)])));
  }
  ICMH_OP void write_words(std::uint16_t* end, U u, M m) {
    const uint8x8_t words = vreinterpret_u8_u16(vmovn_u32(u));
    const uint8x8_t packed = vtbl1_u8(words, vld1_u8(kPack.bytes[bits(m)]));
    vst1_u16(end - kWidth, vreinterpret_u16_u8(packed));
  }

 private:
  ICMH_OP uint64x2_t pair(const void* base, std::uint32_t i, std::uint32_t j) {
    const auto* const bytes = static_cast<const std::uint8_t*>(base);
    std::uint64_t first, second;
    std::memcpy(&first, bytes + 8 * std::size_t{i}, sizeof(first));
    std::memcpy(&second, bytes + 8 * std::size_t{j}, sizeof(second));
    return vcombine_u64(vcreate_u64(first), vcreate_u64(second));
  }
  ICMH_OP uint8x8_t four_bytes(const void* p) {
    std::uint32_t four;
    std::memcpy(&four, p, sizeof(four));
    return vreinterpret_u8_u32(vdup_n_u32(four));
  }
};

}  // namespace

template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_neon(unsigned lanes) {
  return decode_vectors_of<Neon, Index, Symbol>(lanes);
}
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_neon(unsigned lanes) {
  return encode_vectors_of<Neon, Index, Symbol>(lanes);
}

#define ICMH_INSTANTIATE(Index, Symbol)                                           \
  template DecodeGroups<Index, Symbol> decode_groups_neon<Index, Symbol>(unsigned); \
  template EncodeGroups<Index, Symbol> encode_groups_neon<Index, Symbol>(unsigned);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)

}  // namespace icmh::rans

#endif  // ICMH_SIMD_NEON
