// AVX2 with FMA: eight floats, eight words, and all on bytes but their products.
#pragma once

#include <immintrin.h>

namespace mmrt {
namespace {

constexpr int W = 8;
constexpr int SPARSE_VECTORS = 8, DENSE_ROWS = 4, DENSE_VECTORS = 3;
constexpr int QUAD_VECTORS = 3;
constexpr double QUADS_BELOW = 0.9;
constexpr double SPARSE_BELOW = 0.6, SPARSE_BELOW_TAPS = 0.6;
constexpr bool BY_LANE = false, MAX_KEEPS_NAN = false;

}  // namespace
}  // namespace mmrt

#include "wide.h"
#include "x86_table.h"

namespace mmrt {
namespace {

MMRT_INLINE V splat(float a) { return (V)_mm256_set1_ps(a); }
MMRT_INLINE V vmax(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
MMRT_INLINE V vmin(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
MMRT_INLINE V vmax_nan(V a, V b) { return (V)_mm256_or_ps(_mm256_max_ps((__m256)a, (__m256)b), _mm256_max_ps((__m256)b, (__m256)a)); }
MMRT_INLINE V vsqrt(V a) { return (V)_mm256_sqrt_ps((__m256)a); }
MMRT_INLINE V vfma(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
MMRT_INLINE const float* in_register(const float* p) { return p; }

MMRT_INLINE __m256i first(int64_t n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
MMRT_INLINE V load_part(const float* p, int64_t n) { return (V)_mm256_maskload_ps(p, first(n)); }
MMRT_INLINE void store_part(float* p, V v, int64_t n) { _mm256_maskstore_ps(p, first(n), (__m256)v); }

MMRT_INLINE VI splat_int(int32_t a) { return (VI)_mm256_set1_epi32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)_mm256_cvtps_epi32((__m256)v); }

using Four = __m256i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm256_set1_epi32(static_cast<int>(w)); }

struct Narrowing {
    V high;  // what is too large for an integer would become the least of them
    __m256i zero, low;
};
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) {
    return {splat(r.high - r.zero), _mm256_set1_epi16(static_cast<int16_t>(r.zero)), _mm256_set1_epi8(static_cast<char>(static_cast<int>(r.low)))};
}
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    const __m256i by_position = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    auto whole = [&](V value) { return (__m256i)to_int(vmin(value, to.high)); };
    const __m256i ab = _mm256_adds_epi16(_mm256_packs_epi32(whole(a), whole(b)), to.zero);
    const __m256i cd = _mm256_adds_epi16(_mm256_packs_epi32(whole(c), whole(d)), to.zero);
    return (VI)_mm256_shuffle_epi8(_mm256_max_epu8(_mm256_packus_epi16(ab, cd), to.low), by_position);
}

MMRT_INLINE VI look_up(Table table, VI bytes) {
    __m256i out = _mm256_setzero_si256();
    for (int k = 0; k < 16; ++k) out = look_up_part(out, part_of(table, k), (__m256i)bytes, k);
    return (VI)out;
}

}  // namespace
}  // namespace mmrt

#include "rounding.h"
#include "shifted_rows.h"
