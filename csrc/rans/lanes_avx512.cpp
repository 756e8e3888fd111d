#include "common/simd.h"

#ifdef ICMH_SIMD_X86

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define ICMH_TARGET \
  __attribute__((target("avx2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,popcnt")))
#include "rans/lanes_vector.h"

namespace icmh::rans {
namespace {

struct Avx512 {
  static constexpr unsigned kWidth = 16;
  using U = __m512i;
  using M = __mmask16;
  using Shift = __m128i;

  ICMH_OP U load(const std::uint32_t* p) { return _mm512_loadu_si512(p); }
  ICMH_OP void store(std::uint32_t* p, U u) { _mm512_storeu_si512(p, u); }
  ICMH_OP U load_indexes(const std::uint8_t* p) { return _mm512_cvtepu8_epi32(half_of_half(p)); }
  ICMH_OP U load_indexes(const std::uint16_t* p) { return _mm512_cvtepu16_epi32(half(p)); }
  ICMH_OP U load_indexes(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  ICMH_OP U load_symbols(const std::int8_t* p) { return _mm512_cvtepi8_epi32(half_of_half(p)); }
  ICMH_OP U load_symbols(const std::int16_t* p) { return _mm512_cvtepi16_epi32(half(p)); }
  ICMH_OP U load_symbols(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  ICMH_OP void store_symbols(std::int8_t* p, U u) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(u));
  }
  ICMH_OP void store_symbols(std::int16_t* p, U u) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(u));
  }
  ICMH_OP void store_symbols(std::int32_t* p, U u) { _mm512_storeu_si512(p, u); }

  ICMH_OP U splat(std::uint32_t scalar) { return _mm512_set1_epi32(static_cast<int>(scalar)); }
  ICMH_OP U add(U a, U b) { return _mm512_add_epi32(a, b); }
  ICMH_OP U sub(U a, U b) { return _mm512_sub_epi32(a, b); }
  ICMH_OP U mul(U a, U b) { return _mm512_mullo_epi32(a, b); }
  ICMH_OP U bit_and(U a, U b) { return _mm512_and_si512(a, b); }
  ICMH_OP U bit_or(U a, U b) { return _mm512_or_si512(a, b); }
  ICMH_OP U and_or(U a, U b, U c) { return _mm512_ternarylogic_epi32(a, b, c, 0xEA); }
  ICMH_OP U min_u32(U a, U b) { return _mm512_min_epu32(a, b); }
  ICMH_OP Shift shift(unsigned bits) { return _mm_cvtsi32_si128(static_cast<int>(bits)); }
  ICMH_OP U shl(U u, Shift by) { return _mm512_sll_epi32(u, by); }
  ICMH_OP U shr(U u, Shift by) { return _mm512_srl_epi32(u, by); }
  ICMH_OP U shr16(U u) { return _mm512_srli_epi32(u, 16); }
  ICMH_OP U sra16(U u) { return _mm512_srai_epi32(u, 16); }
  ICMH_OP U shr_lanes(U u, U by) { return _mm512_srlv_epi32(u, by); }
  ICMH_OP U log2_floor(U u) { return sub(splat(31), _mm512_lzcnt_epi32(u)); }
  ICMH_OP U mul_high(U a, U b) {
    const U even = _mm512_mul_epu32(a, b);
    const U odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    return _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd);
  }

  ICMH_OP M at_least_s32(U a, U b) { return _mm512_cmpge_epi32_mask(a, b); }
  ICMH_OP M at_least_u32(U a, U b) { return _mm512_cmpge_epu32_mask(a, b); }
  ICMH_OP M is_zero(U u) { return _mm512_testn_epi32_mask(u, u); }
  ICMH_OP M below_2_16(U u) { return _mm512_cmplt_epu32_mask(u, splat(0x10000)); }
  ICMH_OP bool any(M m) { return m != 0; }
  ICMH_OP unsigned bits(M m) { return m; }
  ICMH_OP int count(M m) { return __builtin_popcount(m); }
  ICMH_OP U select(M m, U a, U b) { return _mm512_mask_mov_epi32(b, m, a); }
  ICMH_OP U add_where(M m, U a, U b) { return _mm512_mask_add_epi32(a, m, a, b); }
  ICMH_OP U sub_where(M m, U a, U b) { return _mm512_mask_sub_epi32(a, m, a, b); }
  ICMH_OP U shl16_where(M m, U u) { return _mm512_mask_slli_epi32(u, m, u, 16); }
  ICMH_OP U shr16_where(M m, U u) { return _mm512_mask_srli_epi32(u, m, u, 16); }

  ICMH_OP void gather(const void* base, U index, U* low, U* high) {
    const U first = _mm512_i32gather_epi64(_mm512_castsi512_si256(index), base, 8);
    const U second = _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(index, 1), base, 8);
    const U even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *low = _mm512_permutex2var_epi32(first, even, second);
    *high = _mm512_permutex2var_epi32(first, add(even, splat(1)), second);
  }
  ICMH_OP U read_words(const std::uint8_t* p, M m) {
    return _mm512_maskz_expand_epi32(m, _mm512_cvtepu16_epi32(half(p)));
  }
  ICMH_OP void write_words(std::uint16_t* end, U u, M m) {
    const int words = count(m);
    _mm256_mask_storeu_epi16(end - words, static_cast<__mmask16>((1u << words) - 1),
                             _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(m, u)));
  }

 private:
  ICMH_OP __m256i half(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  ICMH_OP __m128i half_of_half(const void* p) {
    return _mm_loadu_si128(static_cast<const __m128i*>(p));
  }
};

}  // namespace

template <typename Index, typename Symbol>
DecodeGroups<Index, Symbol> decode_groups_avx512(unsigned lanes) {
  return decode_vectors_of<Avx512, Index, Symbol>(lanes);
}
template <typename Index, typename Symbol>
EncodeGroups<Index, Symbol> encode_groups_avx512(unsigned lanes) {
  return encode_vectors_of<Avx512, Index, Symbol>(lanes);
}

#define ICMH_INSTANTIATE(Index, Symbol)                                             \
  template DecodeGroups<Index, Symbol> decode_groups_avx512<Index, Symbol>(unsigned); \
  template EncodeGroups<Index, Symbol> encode_groups_avx512<Index, Symbol>(unsigned);
ICMH_RANS_FOR_EACH_TYPE(ICMH_INSTANTIATE)

}  // namespace icmh::rans

#endif  // ICMH_SIMD_X86
