// AVX-512 with BW, VL and VNNI: bytes in whole vectors; four products of bytes, or two of int16, and their sum are one instruction.
#pragma once

#include "avx512_floats.h"
#include "x86_bytes.h"

namespace mmrt {
namespace {

constexpr int Q_SUMS = 10;  // a product's sum is ready after five cycles, and two are begun in each
constexpr int Q_DENSE_VECTORS = 5;
constexpr double Q_DENSE_FROM = 0.55;

using Four = __m512i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm512_set1_epi32(static_cast<int>(w)); }
MMRT_INLINE Four load_weights(const uint32_t* w) { return _mm512_loadu_si512(w); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) { return (VI)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, w); }
MMRT_INLINE VI multiply_packed(VI acc, VI x, VI w) { return (VI)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)x, (__m512i)w); }

// Of each four words: byte i of word j becomes byte j of word i.
MMRT_INLINE VI transposed_bytes(VI words) {
    return (VI)_mm512_shuffle_epi8((__m512i)words, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

struct Narrowing {
    V high;  // what is too large for an integer would become the least of them
    __m512i zero, low;
};
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) {
    return {splat(r.high - r.zero), _mm512_set1_epi16(static_cast<int16_t>(r.zero)), _mm512_set1_epi8(static_cast<char>(static_cast<int>(r.low)))};
}
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    auto whole = [&](V value) { return (__m512i)to_int(vmin(value, to.high)); };
    const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(whole(a), whole(b)), to.zero);
    const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(whole(c), whole(d)), to.zero);
    return transposed_bytes((VI)_mm512_max_epu8(_mm512_packus_epi16(ab, cd), to.low));
}

MMRT_INLINE void read_rows(const uint32_t* p, V* rows) {
    const VI words = load_ints(p);
    for (int r = 0; r < 4; ++r)  // the byte, and three that are 0
        rows[r] = to_float((VI)_mm512_shuffle_epi8((__m512i)words, _mm512_broadcast_i32x4(_mm_setr_epi32(r - 256, r + 4 - 256, r + 8 - 256, r + 12 - 256))));
}

// A byte's upper four bits choose one of 16 instructions' tables, its lower four an entry of it.
struct Table {
    __m512i parts[16];
};
MMRT_INLINE Table table_of(const uint8_t* entries) {
    Table table;
    for (int k = 0; k < 16; ++k) table.parts[k] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + 16 * k)));
    return table;
}
MMRT_INLINE VI look_up(const Table& table, VI bytes) {
    __m512i out = _mm512_setzero_si512();
    for (int k = 0; k < 16; ++k) {  // where another part is meant, the highest bit is set, and the entry 0
        const __m512i index = _mm512_adds_epu8(_mm512_xor_si512((__m512i)bytes, _mm512_set1_epi8(static_cast<char>(16 * k))), _mm512_set1_epi8(0x70));
        out = _mm512_or_si512(out, _mm512_shuffle_epi8(table.parts[k], index));
    }
    return (VI)out;
}

}  // namespace
}  // namespace mmrt

#include "no_pairs.h"
#include "packed_int16.h"
#include "quads.h"
#include "vnni_channels.h"
