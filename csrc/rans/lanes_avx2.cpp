#include "common/simd.h"

#ifdef ICMH_SIMD_X86

#include <immintrin.h>

#include "rans/lane_shuffles.h"

#define ICMH_TARGET __attribute__((target("avx2,popcnt")))
#include "rans/lanes_vector.h"

namespace icmh::rans {
namespace {

constexpr LaneShuffles<8> kSpread = LaneShuffles<8>::spread();
constexpr LaneShuffles<8> kPack = LaneShuffles<8>::pack();

struct Avx2 {
  static constexpr unsigned kWidth = 8;
  using U = __m256i;
  using M = __m256i;  // all bits of a lane
  using Shift = __m128i;

  ICMH_OP U load(const std::uint32_t* p) { return whole(p); }
  ICMH_OP void store(std::uint32_t* p, U u) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), u);
  }
  ICMH_OP U load_indexes(const std::uint8_t* p) { return _mm256_cvtepu8_epi32(quarter(p)); }
  ICMH_OP U load_indexes(const std::uint16_t* p) { return _mm256_cvtepu16_epi32(half(p)); }
  ICMH_OP U load_indexes(const std::int32_t* p) { return whole(p); }
  ICMH_OP U load_symbols(const std::int8_t* p) { return _mm256_cvtepi8_epi32(quarter(p)); }
  ICMH_OP U load_symbols(const std::int16_t* p) { return _mm256_cvtepi16_epi32(half(p)); }
  ICMH_OP U load_symbols(const std::int32_t* p) { return whole(p); }
  ICMH_OP void store_symbols(std::int8_t* p, U u) {
    const __m128i words = narrow(u);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
  ICMH_OP void store_symbols(std::int16_t* p, U u) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(u));
  }
  ICMH_OP void store_symbols(std::int32_t* p, U u) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), u);
  }

  ICMH_OP U splat(std::uint32_t scalar) { return _mm256_set1_epi32(static_cast<int>(scalar)); }
  ICMH_OP U add(U a, U b) { return _mm256_add_epi32(a, b); }
  ICMH_OP U sub(U a, U b) { return _mm256_sub_epi32(a, b); }
  ICMH_OP U mul(U a, U b) { return _mm256_mullo_epi32(a, b); }
  ICMH_OP U bit_and(U a, U b) { return _mm256_and_si256(a, b); }
  ICMH_OP U bit_or(U a, U b) { return _mm256_or_si256(a, b); }
  ICMH_OP U and_or(U a, U b, U c) { return bit_or(bit_and(a, b), c); }
  ICMH_OP U min_u32(U a, U b) { return _mm256_min_epu32(a, b); }
  ICMH_OP Shift shift(unsigned bits) { return _mm_cvtsi32_si128(static_cast<int>(bits)); }
  ICMH_OP U shl(U u, Shift by) { return _mm256_sll_epi32(u, by); }
  ICMH_OP U shr(U u, Shift by) { return _mm256_srl_epi32(u, by); }
  ICMH_OP U shr16(U u) { return _mm256_srli_epi32(u, 16); }
  ICMH_OP U sra16(U u) { return _mm256_srai_epi32(u, 16); }
  ICMH_OP U shr_lanes(U u, U by) { return _mm256_srlv_epi32(u, by); }
  ICMH_OP U log2_floor(U u) {
    // The exponent of a float, which holds a number below 2^24 exactly.
    const U exponent = _mm256_srli_epi32(_mm256_castps_si256(_mm256_cvtepi32_ps(u)), 23);
    return sub(exponent, splat(127));
  }
  ICMH_OP U mul_high(U a, U b) {
    const U even = _mm256_mul_epu32(a, b);
    const U odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  }

  ICMH_OP M at_least_s32(U a, U b) {
    return _mm256_xor_si256(_mm256_cmpgt_epi32(b, a), splat(~0u));
  }
  ICMH_OP M at_least_u32(U a, U b) { return _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a); }
  ICMH_OP M is_zero(U u) { return _mm256_cmpeq_epi32(u, splat(0)); }
  ICMH_OP M below_2_16(U u) { return is_zero(shr16(u)); }
  ICMH_OP bool any(M m) { return _mm256_testz_si256(m, m) == 0; }
  ICMH_OP unsigned bits(M m) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(m)));
  }
  ICMH_OP int count(M m) { return __builtin_popcount(bits(m)); }
  ICMH_OP U select(M m, U a, U b) { return _mm256_blendv_epi8(b, a, m); }
  ICMH_OP U add_where(M m, U a, U b) { return add(a, bit_and(b, m)); }
  ICMH_OP U sub_where(M m, U a, U b) { return sub(a, bit_and(b, m)); }
  ICMH_OP U shl16_where(M m, U u) { return _mm256_sllv_epi32(u, bit_and(m, splat(16))); }
  ICMH_OP U shr16_where(M m, U u) { return _mm256_srlv_epi32(u, bit_and(m, splat(16))); }

  ICMH_OP void gather(const void* base, U index, U* low, U* high) {
    // Lanes 0 1 4 5 and 2 3 6 7, so that the halves of 128 bits below are in order.
    const U order = _mm256_permute4x64_epi64(index, 0xD8);
    const auto* const numbers = static_cast<const long long*>(base);
    const __m256 first = _mm256_castsi256_ps(
        _mm256_i32gather_epi64(numbers, _mm256_castsi256_si128(order), 8));
    const __m256 second = _mm256_castsi256_ps(
        _mm256_i32gather_epi64(numbers, _mm256_extracti128_si256(order, 1), 8));
    *low = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
    *high = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xDD));
  }
  ICMH_OP U read_words(const std::uint8_t* p, M m) {
    const U words = _mm256_permutevar8x32_epi32(
        _mm256_cvtepu16_epi32(half(p)), _mm256_cvtepu8_epi32(quarter(kSpread.lanes[bits(m)])));
    return bit_and(words, m);
  }
  ICMH_OP void write_words(std::uint16_t* end, U u, M m) {
    const U packed = _mm256_permutevar8x32_epi32(
        bit_and(u, splat(0xFFFF)), _mm256_cvtepu8_epi32(quarter(kPack.lanes[bits(m)])));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(packed),
                                           _mm256_extracti128_si256(packed, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(end - kWidth), words);
  }

 private:
  ICMH_OP __m256i whole(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  ICMH_OP __m128i half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  ICMH_OP __m128i quarter(const void* p) {
    return _mm_loadl_epi64(static_cast<const __m128i*>(p));
  }
  ICMH_OP __m128i narrow(U u) {
    return _mm_packs_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
  }
};

}  // namespace

template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_avx2(unsigned lanes) {
  return decode_vectors_of<Avx2, Index, Symbol>(lanes);
}
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_avx2(unsigned lanes) {
  return encode_vectors_of<Avx2, Index, Symbol>(lanes);
}

#define ICMH_INSTANTIATE(Index, Symbol)                                           \
  template DecodeGroups<Index, Symbol> decode_groups_avx2<Index, Symbol>(unsigned); \
  template EncodeGroups<Index, Symbol> encode_groups_avx2<Index, Symbol>(unsigned);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)

}  // namespace icmh::rans

#endif  // ICMH_SIMD_X86
