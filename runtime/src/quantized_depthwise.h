// Depthwise convolutions on uint8 activations, four channels in a word.
#pragma once

#include "quantized_kernels.h"

namespace mmrt {
namespace {

// How the weights of a depthwise convolution lie (Kernels::q_taps, q_alone). Four products that are added at once are one channel's
// where three of the four weights are 0: four instructions a tap, and no byte need move.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int Q_TAPS = 1;
constexpr bool Q_ALONE = true;
#else
constexpr int Q_TAPS = MMRT_WIDTH == 8 || MMRT_WIDTH == 16 ? 2 : 1;
constexpr bool Q_ALONE = false;
#endif

// One row of words of a depthwise convolution.
void qdepthwise(const QDepthwiseTask& task) {
    int64_t p = 0;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    constexpr int VECTORS = MMRT_WIDTH == 16 ? 4 : 2;
    const Narrowing to = narrowing_of(task.out);
    auto run = [&](auto vectors) {
        constexpr int T = vectors;
        VI sums[T][4];
        for (int c = 0; c < 4; ++c)
            for (int t = 0; t < T; ++t) sums[t][c] = splat_int(task.bias[c]);
        const int8_t* weights = task.weights;
        for (int i = 0; i < task.n_taps; ++i, weights += 16) {
            VI x[T];
            for (int t = 0; t < T; ++t) x[t] = load_flipped(task.x + p + task.taps[i] + t * W);
            for (int c = 0; c < 4; ++c) {
                uint32_t word;
                std::memcpy(&word, weights + 4 * c, 4);
                const Four w = four_weights(word);
                for (int t = 0; t < T; ++t) sums[t][c] = dot(sums[t][c], x[t], w);
            }
        }
        for (int t = 0; t < T; ++t) {
            V rows[4];
            for (int c = 0; c < 4; ++c) rows[c] = to_float(sums[t][c]) * splat(task.multiplier[c]);
            store_flipped(task.y + p + t * W, words_of(rows[0], rows[1], rows[2], rows[3], to));
        }
        p += T * W;
    };
    while (p + (VECTORS - 1) * W < task.positions) run(std::integral_constant<int, VECTORS>());
    while (p < task.positions) run(std::integral_constant<int, 1>());
#elif MMRT_WIDTH == 8 || MMRT_WIDTH == 16
    const int pairs = task.n_taps / 2;
    const __m256i one = _mm256_set1_epi16(1);
    const __m256 multiplier = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(task.multiplier));
    const __m256i start = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(task.bias)));
    const __m256 low = _mm256_set1_ps(task.out.low - task.out.zero), high = _mm256_set1_ps(task.out.high - task.out.zero);
    const __m256i zero = _mm256_set1_epi32(static_cast<int>(task.out.zero));
    for (; p < task.positions; p += 8) {
        __m256i sums[4] = {start, start, start, start};
        auto pair = [&](int i, __m256i* first, __m256i* second) {
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(task.x + p + task.taps[2 * i]));
            const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(task.x + p + task.taps[2 * i + 1]));
            long long eight;
            std::memcpy(&eight, task.weights + 8 * i, 8);
            const __m256i w = _mm256_set1_epi64x(eight);
            *first = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), w);
            *second = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), w);
        };
        for (int i = 0; i < pairs; i += 2) {
            __m256i a_low, a_high, b_low = _mm256_setzero_si256(), b_high = b_low;
            pair(i, &a_low, &a_high);
            if (i + 1 < pairs) pair(i + 1, &b_low, &b_high);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a_low, b_low), one));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a_low, b_low), one));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi16(a_high, b_high), one));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi16(a_high, b_high), one));
        }
        for (__m256i& sum : sums) {
            const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), multiplier);
            sum = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, low), high)), zero);
        }
        const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(task.y + p), bytes);
    }
#elif defined(__aarch64__) && MMRT_WIDTH > 1
    constexpr int VECTORS = 2;
    const float32x4_t multiplier = vld1q_f32(task.multiplier);
    const int32x4_t start = vld1q_s32(task.bias);
    const Narrowing to = narrowing_of(task.out);
    const int32_t* taps = task.taps;
    const int8_t* weights = task.weights;
    const int n_taps = task.n_taps;
    const int64_t positions = task.positions;
    uint32_t* y = task.y;
    for (; p < positions; p += 4 * VECTORS) {
        const uint32_t* x = task.x + p;
        int32x4_t sums[4 * VECTORS];  // a position's four channels each
        for (int32x4_t& sum : sums) sum = start;
        auto take = [&](int begin, auto n) {  // n taps: 3 * 128 * MOST_WEIGHT fits 16 bits
            int16x8_t products[2 * VECTORS];
            for (int i = 0; i < n; ++i) {
                const int8x16_t w = vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(weights) + begin + i));
                for (int v = 0; v < VECTORS; ++v) {
                    const int8x16_t a = (int8x16_t)load_flipped(x + taps[begin + i] + 4 * v);
                    int16x8_t &front = products[2 * v], &back = products[2 * v + 1];
                    front = i == 0 ? vmull_s8(vget_low_s8(a), vget_low_s8(w)) : vmlal_s8(front, vget_low_s8(a), vget_low_s8(w));
                    back = i == 0 ? vmull_high_s8(a, w) : vmlal_high_s8(back, a, w);
                }
            }
            for (int k = 0; k < 2 * VECTORS; ++k) {
                sums[2 * k] = vaddw_s16(sums[2 * k], vget_low_s16(products[k]));
                sums[2 * k + 1] = vaddw_high_s16(sums[2 * k + 1], products[k]);
            }
        };
        int i = 0;
        for (; i + 3 <= n_taps; i += 3) take(i, std::integral_constant<int, 3>());
        for (; i < n_taps; ++i) take(i, std::integral_constant<int, 1>());
        for (int32x4_t& sum : sums) sum = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum), multiplier));
        for (int v = 0; v < VECTORS; ++v) {
            const int16x8_t front = vqmovn_high_s32(vqmovn_s32(sums[4 * v]), sums[4 * v + 1]);
            const int16x8_t back = vqmovn_high_s32(vqmovn_s32(sums[4 * v + 2]), sums[4 * v + 3]);
            store_flipped(y + p + 4 * v, (VI)in_bytes(front, back, to));
        }
    }
#else
    const Clamp clamp = clamp_of(task.out);
    for (; p < task.positions; p += W) {
        VI words = splat_int(0);
        for (int c = 0; c < 4; ++c) {
            VI acc = splat_int(task.bias[c]);
            for (int i = 0; i < task.n_taps; ++i) acc += byte_of(load_words(task.x + p + task.taps[i]), c) * int32_t(task.weights[4 * i + c]);
            words |= at_byte(quantized(to_float(acc) * splat(task.multiplier[c]), clamp), c);
        }
        store_words(task.y + p, words);
    }
#endif
}

}  // namespace
}  // namespace mmrt
