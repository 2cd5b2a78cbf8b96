// AVX2 with AVX-VNNI: four products of bytes, or two of int16, and their sum are one instruction.
#pragma once

#include "avx2_floats.h"
#include "x86_bytes.h"

namespace mmrt {
namespace {

constexpr int Q_VECTORS = 8;  // half of the registers
constexpr double Q_COPIED = 0;
constexpr int Q_OFFSET = 0;
constexpr int Q_SUMS = 10;  // a product's sum is ready after five cycles, and two are begun in each
constexpr int Q_DENSE_VECTORS = 3;
constexpr double Q_DENSE_FROM = 0.5;

MMRT_INLINE Four load_weights(const uint32_t* w) { return load_256(w); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) { return (VI)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, w); }
// Of each four words: byte i of word j becomes byte j of word i.
MMRT_INLINE VI transposed_bytes(VI words) {
    return (VI)_mm256_shuffle_epi8((__m256i)words, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}
MMRT_INLINE VI multiply_packed(VI acc, VI x, VI w) { return (VI)_mm256_dpwssd_avx_epi32((__m256i)acc, (__m256i)x, (__m256i)w); }

}  // namespace
}  // namespace mmrt

#include "no_pairs.h"
#include "packed_int16.h"
#include "quads.h"
#include "vnni_channels.h"
