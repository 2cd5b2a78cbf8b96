// AVX2 alone: products of bytes are added in pairs in 16 bits.
#pragma once

#include "avx2_floats.h"
#include "x86_channels.h"

namespace mmrt {
namespace {

constexpr int Q_VECTORS = 8;  // half of the registers
constexpr double Q_COPIED = 0;
constexpr int Q_OFFSET = 0, Q_SUMS = 1, Q_DENSE_VECTORS = 0;
constexpr double Q_DENSE_FROM = 0.5;

MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, w);
    return (VI)_mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

constexpr int Q_PAIRED = 2 * MOST_WEIGHT;  // 255 times that fits 16 bits
struct Two {
    Four first, second;
};
MMRT_INLINE Two two_weights(const QBlock* block) { return {four_weights(block[0].weights), four_weights(block[1].weights)}; }
MMRT_INLINE VI dot_two(VI acc, VI x, VI other, Two w) {
    const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)x, w.first), _mm256_maddubs_epi16((__m256i)other, w.second));
    return (VI)_mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

}  // namespace
}  // namespace mmrt

#include "packed_floats.h"
#include "quads.h"
