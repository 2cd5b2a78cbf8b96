// A depthwise convolution's sums where two products are added in 16 bits: two taps of a channel lie side by side, four are taken at once.
#pragma once

#include "x86_bytes.h"

namespace mmrt {
namespace {

constexpr int Q_TAPS = 2, MOST_TAPS = 4, CHANNEL_WORDS = 8, CHANNEL_STEPS = 1;
constexpr bool Q_ALONE = false;

struct Channels {
    __m256i start, zero;
    __m256 multiplier, low, high;
};
MMRT_INLINE Channels channels_of(const QDepthwiseTask& task) {
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(task.bias))), _mm256_set1_epi32(static_cast<int>(task.out.zero)),
            _mm256_broadcast_ps(reinterpret_cast<const __m128*>(task.multiplier)), _mm256_set1_ps(task.out.low - task.out.zero),
            _mm256_set1_ps(task.out.high - task.out.zero)};
}

template <int>
struct ChannelSums {
    __m256i of[4];  // two positions of a half each
    explicit inline __attribute__((always_inline)) ChannelSums(const Channels& how) : of{how.start, how.start, how.start, how.start} {}
};
template <int N, int T>
MMRT_INLINE void add_taps(ChannelSums<T>& sums, const uint32_t* x, const int32_t* taps, const int8_t* weights) {
    auto pair = [&](int i, __m256i* first, __m256i* second) {
        const __m256i a = load_256(x + taps[2 * i]), b = load_256(x + taps[2 * i + 1]);
        long long eight;
        std::memcpy(&eight, weights + 8 * i, 8);
        const __m256i w = _mm256_set1_epi64x(eight);
        *first = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), w);
        *second = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), w);
    };
    __m256i a_low, a_high, b_low = _mm256_setzero_si256(), b_high = b_low;
    pair(0, &a_low, &a_high);
    if (N == 4) pair(1, &b_low, &b_high);
    auto add = [&](int i, __m256i products) { sums.of[i] = _mm256_add_epi32(sums.of[i], _mm256_madd_epi16(products, _mm256_set1_epi16(1))); };
    add(0, _mm256_unpacklo_epi16(a_low, b_low));
    add(1, _mm256_unpackhi_epi16(a_low, b_low));
    add(2, _mm256_unpacklo_epi16(a_high, b_high));
    add(3, _mm256_unpackhi_epi16(a_high, b_high));
}
template <int T>
MMRT_INLINE void store_channels(uint32_t* y, const ChannelSums<T>& sums, const Channels& how) {
    auto whole = [&](int i) {
        const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums.of[i]), how.multiplier);
        return _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, how.low), how.high)), how.zero);
    };
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(whole(0), whole(1)), _mm256_packs_epi32(whole(2), whole(3)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), bytes);
}

}  // namespace
}  // namespace mmrt
