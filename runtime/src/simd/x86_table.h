// A byte's upper four bits choose one of 16 instructions' tables, its lower four an entry of it.
#pragma once

#include <immintrin.h>

namespace mmrt {
namespace {

using Table = const uint8_t*;
MMRT_INLINE Table table_of(const uint8_t* entries) { return entries; }

MMRT_INLINE __m128i part_of(Table table, int k) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * k)); }

// so_far, or the entries of the k-th part: where another part is meant, the index has its highest bit set, and the entry is 0
MMRT_INLINE __m256i look_up_part(__m256i so_far, __m128i part, __m256i bytes, int k) {
    const __m256i index = _mm256_adds_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(16 * k))), _mm256_set1_epi8(0x70));
    return _mm256_or_si256(so_far, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), index));
}

}  // namespace
}  // namespace mmrt
