// AVX-512F alone has no operations on bytes: two halves.
#pragma once

#include "avx512_floats.h"
#include "x86_channels.h"
#include "x86_table.h"

namespace mmrt {
namespace {

constexpr int Q_SUMS = 1, Q_DENSE_VECTORS = 0;
constexpr double Q_DENSE_FROM = 0.5;

MMRT_INLINE __m256i low_half(VI v) { return _mm512_castsi512_si256((__m512i)v); }
MMRT_INLINE __m256i high_half(VI v) { return _mm512_extracti64x4_epi64((__m512i)v, 1); }
MMRT_INLINE VI both_halves(__m256i low, __m256i high) { return (VI)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }

using Four = __m256i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm256_set1_epi32(static_cast<int>(w)); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(low_half(x), w), one);
    const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(high_half(x), w), one);
    return acc + both_halves(low, high);
}

MMRT_INLINE VI look_up(Table table, VI bytes) {
    __m256i low = _mm256_setzero_si256(), high = low;
    for (int k = 0; k < 16; ++k) {
        const __m128i part = part_of(table, k);
        low = look_up_part(low, part, low_half(bytes), k);
        high = look_up_part(high, part, high_half(bytes), k);
    }
    return both_halves(low, high);
}

}  // namespace
}  // namespace mmrt

#include "narrow_words.h"
#include "no_pairs.h"
#include "packed_floats.h"
#include "quads.h"
#include "shifted_rows.h"
