// Bytes in vectors of 256 bits, which all x86 sets beside the scalar one have, whatever their width.
#pragma once

#include <immintrin.h>

namespace mmrt {
namespace {

MMRT_INLINE __m256i load_256(const void* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// sum += the products of the bytes at x with the weights at w, word by word; how many words were seen
MMRT_INLINE int64_t dot_line(const uint32_t* x, const uint32_t* w, int64_t words, int32_t* sum) {
    __m256i sums = _mm256_setzero_si256();
    int64_t k = 0;
    for (; k + 8 <= words; k += 8) {
        __builtin_prefetch(w + k + 512);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(load_256(x + k), load_256(w + k)), _mm256_set1_epi16(1)));
    }
    int32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
    for (int32_t lane : lanes) *sum += lane;
    return k;
}

}  // namespace
}  // namespace mmrt
