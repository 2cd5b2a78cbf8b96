// Kernels on uint8 activations, four channels in a word. Every instruction set gives the same bits: integers, and floats
// whose products are rounded before they are added.
#pragma once

#include <type_traits>

#include "kernels.h"
#include "vector.h"

namespace mmrt {
namespace {

#if MMRT_WIDTH == 1
using VI = int32_t;
MMRT_INLINE VI load_flipped(const uint32_t* p) { return static_cast<int32_t>(*p); }
MMRT_INLINE void store_flipped(uint32_t* p, VI v) { *p = static_cast<uint32_t>(v); }
MMRT_INLINE VI splat_int(int32_t a) { return a; }
MMRT_INLINE V to_float(VI v) { return static_cast<float>(v); }
MMRT_INLINE VI to_int(V v) { return static_cast<int32_t>(std::nearbyint(v)); }
MMRT_INLINE VI byte_of(VI v, int i) { return static_cast<int32_t>(static_cast<uint32_t>(v) >> (8 * i) & 255); }
MMRT_INLINE VI at_byte(VI v, int i) { return static_cast<int32_t>(static_cast<uint32_t>(v) << (8 * i)); }
#else
typedef int32_t VI __attribute__((vector_size(MMRT_WIDTH * 4)));
typedef int32_t UnalignedInt __attribute__((vector_size(MMRT_WIDTH * 4), aligned(4), may_alias));
MMRT_INLINE VI load_flipped(const uint32_t* p) { return *reinterpret_cast<const UnalignedInt*>(p); }
MMRT_INLINE void store_flipped(uint32_t* p, VI v) { *reinterpret_cast<UnalignedInt*>(p) = v; }
MMRT_INLINE V to_float(VI v) { return __builtin_convertvector(v, V); }
MMRT_INLINE VI byte_of(VI v, int i) { return (v >> (8 * i)) & 255; }
MMRT_INLINE VI at_byte(VI v, int i) { return v << (8 * i); }
#if MMRT_WIDTH == 16
MMRT_INLINE VI splat_int(int32_t a) { return (VI)_mm512_set1_epi32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)_mm512_cvtps_epi32((__m512)v); }
#elif MMRT_WIDTH == 8
MMRT_INLINE VI splat_int(int32_t a) { return (VI)_mm256_set1_epi32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)_mm256_cvtps_epi32((__m256)v); }
#else
MMRT_INLINE VI splat_int(int32_t a) { return (VI)vdupq_n_s32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)vcvtnq_s32_f32((float32x4_t)v); }
#endif
#endif

MMRT_INLINE VI unflipped(VI v) { return v ^ splat_int(static_cast<int32_t>(FLIPPED)); }
MMRT_INLINE VI load_words(const uint32_t* p) { return unflipped(load_flipped(p)); }
MMRT_INLINE void store_words(uint32_t* p, VI v) { store_flipped(p, unflipped(v)); }

// dot(acc, x, w): acc += the four products of each word's bytes, as they lie in memory, with the weights. Q_OFFSET is what these are less than they stand for.
#if defined(__aarch64__) && MMRT_WIDTH > 1
constexpr int Q_VECTORS = 16;  // half of the registers
constexpr int Q_OFFSET = 128;
using Four = int8x16_t;
MMRT_INLINE Four four_weights(uint32_t w) { return vreinterpretq_s8_u32(vdupq_n_u32(w)); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const int8x16_t s = (int8x16_t)x;
#if defined(__ARM_FEATURE_DOTPROD)
    return (VI)vdotq_s32((int32x4_t)acc, s, w);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(s), vget_low_s8(w)), high = vmull_high_s8(s, w);
    return (VI)vpadalq_s16((int32x4_t)acc, vpaddq_s16(low, high));
#endif
}
#else
constexpr int Q_VECTORS = MMRT_WIDTH == 16 ? 16 : 8;  // half of the registers
constexpr int Q_OFFSET = 0;
#if MMRT_WIDTH == 1
using Four = uint32_t;
MMRT_INLINE Four four_weights(uint32_t w) { return w; }
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    for (int i = 0; i < 4; ++i) acc += byte_of(unflipped(x), i) * static_cast<int8_t>(w >> (8 * i));
    return acc;
}
#elif MMRT_WIDTH == 8
using Four = __m256i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm256_set1_epi32(static_cast<int>(w)); }
#if defined(__AVXVNNI__)
MMRT_INLINE VI dot(VI acc, VI x, Four w) { return (VI)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, w); }
#else
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, w);
    return (VI)_mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
#elif defined(__AVX512VNNI__)
using Four = __m512i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm512_set1_epi32(static_cast<int>(w)); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) { return (VI)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, w); }
#else  // AVX-512F alone has no products of bytes: two halves
using Four = __m256i;
MMRT_INLINE Four four_weights(uint32_t w) { return _mm256_set1_epi32(static_cast<int>(w)); }
MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm512_castsi512_si256((__m512i)x), w), one);
    const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm512_extracti64x4_epi64((__m512i)x, 1), w), one);
    return acc + (VI)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
#endif
#endif

// dot of two blocks at once, where that takes fewer instructions. Q_PAIRED is what pair_up() must know of it (Kernels::q_paired).
#if MMRT_WIDTH == 8 && !defined(__AVXVNNI__)
constexpr int Q_PAIRED = 2 * MOST_WEIGHT;  // 255 times that fits 16 bits
struct Two {
    Four first, second;
};
MMRT_INLINE Two two_weights(const QBlock* block) { return {four_weights(block[0].weights), four_weights(block[1].weights)}; }
MMRT_INLINE VI dot_two(VI acc, VI x, VI other, Two w) {
    const __m256i sums = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)x, w.first), _mm256_maddubs_epi16((__m256i)other, w.second));
    return (VI)_mm256_add_epi32((__m256i)acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr int Q_PAIRED = 4 * MOST_WEIGHT;  // any: sums are of 32 bits
using Two = int8x16_t;                     // both blocks as they lie: offset, weights, offset, weights
MMRT_INLINE Two two_weights(const QBlock* block) { return vld1q_s8(reinterpret_cast<const int8_t*>(block)); }
MMRT_INLINE VI dot_two(VI acc, VI x, VI other, Two w) { return (VI)vdotq_laneq_s32(vdotq_laneq_s32((int32x4_t)acc, (int8x16_t)x, w, 1), (int8x16_t)other, w, 3); }
#elif defined(__aarch64__) && MMRT_WIDTH > 1
constexpr int Q_PAIRED = 4 * MOST_WEIGHT - 1;  // 128 times that fits 16 bits
struct Two {
    Four first, second;
};
MMRT_INLINE Two two_weights(const QBlock* block) { return {four_weights(block[0].weights), four_weights(block[1].weights)}; }
MMRT_INLINE VI dot_two(VI acc, VI x, VI other, Two w) {
    const int8x16_t a = (int8x16_t)x, b = (int8x16_t)other;
    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), vget_low_s8(w.first)), vget_low_s8(b), vget_low_s8(w.second));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(a, w.first), b, w.second);
    return (VI)vpadalq_s16((int32x4_t)acc, vpaddq_s16(low, high));
}
#else
constexpr int Q_PAIRED = 0;
struct Two {};
MMRT_INLINE Two two_weights(const QBlock*) { return {}; }
MMRT_INLINE VI dot_two(VI acc, VI, VI, Two) { return acc; }
#endif

// The weights of four outputs, one word of inputs. Where four products are one instruction, inputs that are loaded once for four
// outputs pay: loads bound the loop otherwise.
#if defined(__ARM_FEATURE_DOTPROD)
constexpr int Q_DENSE_VECTORS = 6;
constexpr double Q_DENSE_FROM = 0.7;
using Quad = int8x16_t;
MMRT_INLINE Quad quad_weights(const uint32_t* w) { return vreinterpretq_s8_u32(vld1q_u32(w)); }
template <int ROW>
MMRT_INLINE VI dot_row(VI acc, VI x, Quad w) { return (VI)vdotq_laneq_s32((int32x4_t)acc, (int8x16_t)x, w, ROW); }
#else
#if defined(__AVX512VNNI__)
constexpr int Q_DENSE_VECTORS = 5;
#elif defined(__AVXVNNI__)
constexpr int Q_DENSE_VECTORS = 3;
#else
constexpr int Q_DENSE_VECTORS = 0;
#endif
constexpr double Q_DENSE_FROM = 0.5;
using Quad = const uint32_t*;
MMRT_INLINE Quad quad_weights(const uint32_t* w) { return w; }
template <int ROW>
MMRT_INLINE VI dot_row(VI acc, VI x, Quad w) { return dot(acc, x, four_weights(w[ROW])); }
#endif

struct Clamp {
    V low, high, below;  // the last is WHOLE - zero, which takes WHOLE away and adds the zero point
    VI zero;
};

MMRT_INLINE Clamp clamp_of(const Rounding& r) { return {splat(r.low - r.zero), splat(r.high - r.zero), splat(WHOLE - r.zero), splat_int(static_cast<int32_t>(r.zero))}; }

MMRT_INLINE VI quantized(V value, const Clamp& c) { return to_int(vmin(vmax(value, c.low), c.high)) + c.zero; }

MMRT_INLINE V quantized_float(V value, const Clamp& c) { return (vmin(vmax(value, c.low), c.high) + splat(WHOLE)) - c.below; }

// words_of(a, b, c, d, to): words, as they lie in memory, of four rows: rounded, zero added, clamped.
#if defined(__aarch64__) && MMRT_WIDTH > 1
struct Narrowing {
    int16x8_t zero;
    int8x16_t low, high;
};
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) {
    auto signed_byte = [](float value) { return static_cast<int8_t>(static_cast<int>(value) - 128); };
    return {vdupq_n_s16(static_cast<int16_t>(r.zero) - 128), vdupq_n_s8(signed_byte(r.low)), vdupq_n_s8(signed_byte(r.high))};
}
MMRT_INLINE int8x16_t in_bytes(int16x8_t a, int16x8_t b, const Narrowing& to) {
    const int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(vqaddq_s16(a, to.zero)), vqaddq_s16(b, to.zero));
    return vminq_s8(vmaxq_s8(bytes, to.low), to.high);
}
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    const uint8x16_t by_position = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const int16x8_t ab = vqmovn_high_s32(vqmovn_s32((int32x4_t)to_int(a)), (int32x4_t)to_int(b));
    const int16x8_t cd = vqmovn_high_s32(vqmovn_s32((int32x4_t)to_int(c)), (int32x4_t)to_int(d));
    return (VI)vqtbl1q_s8(in_bytes(ab, cd, to), by_position);
}
#elif MMRT_WIDTH == 8
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
#elif defined(__AVX512BW__)
struct Narrowing {
    V high;
    __m512i zero, low;
};
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) {
    return {splat(r.high - r.zero), _mm512_set1_epi16(static_cast<int16_t>(r.zero)), _mm512_set1_epi8(static_cast<char>(static_cast<int>(r.low)))};
}
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    const __m512i by_position = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    auto whole = [&](V value) { return (__m512i)to_int(vmin(value, to.high)); };
    const __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(whole(a), whole(b)), to.zero);
    const __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(whole(c), whole(d)), to.zero);
    return (VI)_mm512_shuffle_epi8(_mm512_max_epu8(_mm512_packus_epi16(ab, cd), to.low), by_position);
}
#else
using Narrowing = Clamp;
MMRT_INLINE Narrowing narrowing_of(const Rounding& r) { return clamp_of(r); }
MMRT_INLINE VI words_of(V a, V b, V c, V d, const Narrowing& to) {
    return unflipped(quantized(a, to) | at_byte(quantized(b, to), 1) | at_byte(quantized(c, to), 2) | at_byte(quantized(d, to), 3));
}
#endif

struct Adding {
    V a_ratio, b_ratio, offset;
    Narrowing to;
};

MMRT_INLINE Adding adding_of(const Sum& s) { return {splat(s.a_ratio), splat(s.b_ratio), splat(s.offset), narrowing_of({0, s.low, s.high})}; }

MMRT_INLINE VI added(const V* a, const V* b, const Adding& s) {  // four rows of each
    V sums[4];
    for (int r = 0; r < 4; ++r) sums[r] = vfma(a[r], s.a_ratio, vfma(b[r], s.b_ratio, s.offset));
    return words_of(sums[0], sums[1], sums[2], sums[3], s.to);
}

MMRT_INLINE void read_rows(const uint32_t* p, V* rows) {
    const VI words = load_words(p);
#if defined(__AVX512BW__)
    for (int r = 0; r < 4; ++r)  // the byte, and three that are 0
        rows[r] = to_float((VI)_mm512_shuffle_epi8((__m512i)words, _mm512_broadcast_i32x4(_mm_setr_epi32(r - 256, r + 4 - 256, r + 8 - 256, r + 12 - 256))));
#else
    for (int r = 0; r < 4; ++r) rows[r] = to_float(byte_of(words, r));
#endif
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int Q_SUMS = 2;  // a product's sum is ready after five cycles, and two are begun in each
#else
constexpr int Q_SUMS = 1;
#endif
constexpr int LONG_ROW = 24;  // blocks

struct Finishing {
    Clamp clamp;
    Narrowing to;
    Adding adding;
};

MMRT_INLINE Finishing finishing_of(const QLinearTask& task) { return {clamp_of(task.out), narrowing_of(task.out), adding_of(task.sum)}; }

// Four rows become one of words.
template <int T>
MMRT_INLINE void finish(const QLinearTask& task, int quad, V (&rows)[T][4], const Finishing& how) {
    uint32_t* y = task.y + quad * task.y_stride;
    for (int t = 0; t < T; ++t) {
        if (task.residual) {
            V others[4];
            read_rows(task.residual + quad * task.residual_stride + t * W, others);
            for (V& row : rows[t]) row = quantized_float(row, how.clamp);
            store_flipped(y + t * W, task.residual_first ? added(others, rows[t], how.adding) : added(rows[t], others, how.adding));
        } else {
            store_flipped(y + t * W, words_of(rows[t][0], rows[t][1], rows[t][2], rows[t][3], how.to));
        }
    }
}

template <int T>
void qlinear_rows(const QLinearTask& task) {
    const Finishing how = finishing_of(task);
    const QBlock* block = task.blocks;
    const char* x = reinterpret_cast<const char*>(task.x);
    for (int quad = 0; quad < task.n_quads; ++quad) {
        V rows[T][4];
        for (int r = 0; r < 4; ++r) {
            const int row = 4 * quad + r;
            VI acc[T];
            uint32_t* sums = reinterpret_cast<uint32_t*>(task.sums) + row * T * W;
            if (task.first)
                for (int t = 0; t < T; ++t) acc[t] = splat_int(task.bias[row]);
            else
                for (int t = 0; t < T; ++t) acc[t] = load_flipped(sums + t * W);
            const QBlock* end = block + task.counts[row];
            if (Q_PAIRED)
                for (const QBlock* last = block + 2 * task.pairs[row]; block < last; block += 2) {
                    const Two w = two_weights(block);
                    const uint32_t* from = reinterpret_cast<const uint32_t*>(x + block[0].offset);
                    const uint32_t* other = reinterpret_cast<const uint32_t*>(x + block[1].offset);
                    for (int t = 0; t < T; ++t) acc[t] = dot_two(acc[t], load_flipped(from + t * W), load_flipped(other + t * W), w);
                }
            if (Q_SUMS == 2 && T <= 5 && end - block >= LONG_ROW) {  // of two words each: T sums alone would wait for each other
                VI others[T];
                for (int t = 0; t < T; ++t) others[t] = splat_int(0);
                for (const QBlock* ahead = block; ahead < end; ahead += 8) __builtin_prefetch(ahead + 256);  // few positions use a weight up quickly
                for (; block + 1 < end; block += 2) {
                    const Four w = four_weights(block[0].weights), v = four_weights(block[1].weights);
                    const uint32_t* from = reinterpret_cast<const uint32_t*>(x + block[0].offset);
                    const uint32_t* other = reinterpret_cast<const uint32_t*>(x + block[1].offset);
                    for (int t = 0; t < T; ++t) acc[t] = dot(acc[t], load_flipped(from + t * W), w);
                    for (int t = 0; t < T; ++t) others[t] = dot(others[t], load_flipped(other + t * W), v);
                }
                for (int t = 0; t < T; ++t) acc[t] += others[t];
            }
            for (; block < end; ++block) {
                const Four w = four_weights(block->weights);
                const uint32_t* from = reinterpret_cast<const uint32_t*>(x + block->offset);
                for (int t = 0; t < T; ++t) acc[t] = dot(acc[t], load_flipped(from + t * W), w);
            }
            if (!task.last) {
                for (int t = 0; t < T; ++t) store_flipped(sums + t * W, acc[t]);
                continue;
            }
            const V multiplier = splat(task.multiplier[row]);
            for (int t = 0; t < T; ++t) rows[t][r] = to_float(acc[t]) * multiplier;
        }
        if (task.last) finish<T>(task, quad, rows, how);
    }
}

template <int T = 1>
void qlinear(const QLinearTask& task) {
    if constexpr (T < Q_VECTORS)
        if (task.vectors > T) return qlinear<T + 1>(task);
    qlinear_rows<T>(task);
}

template <int T>
void qdense_rows(const QLinearTask& task) {
    const Finishing how = finishing_of(task);
    const char* x = reinterpret_cast<const char*>(task.x);
    const uint32_t* weights = task.weights;
    for (int quad = 0; quad < task.n_quads; ++quad) {
        VI acc[4][T];
        for (int r = 0; r < 4; ++r)
            for (int t = 0; t < T; ++t) acc[r][t] = splat_int(task.bias[4 * quad + r]);
        for (int i = 0; i < task.n_offsets; ++i, weights += 4) {
            const uint32_t* from = reinterpret_cast<const uint32_t*>(x + task.offsets[i]);
            const Quad w = quad_weights(weights);
            VI in[T];
            for (int t = 0; t < T; ++t) in[t] = load_flipped(from + t * W);
            for (int t = 0; t < T; ++t) acc[0][t] = dot_row<0>(acc[0][t], in[t], w);
            for (int t = 0; t < T; ++t) acc[1][t] = dot_row<1>(acc[1][t], in[t], w);
            for (int t = 0; t < T; ++t) acc[2][t] = dot_row<2>(acc[2][t], in[t], w);
            for (int t = 0; t < T; ++t) acc[3][t] = dot_row<3>(acc[3][t], in[t], w);
        }
        V rows[T][4];
        for (int r = 0; r < 4; ++r) {
            const V multiplier = splat(task.multiplier[4 * quad + r]);
            for (int t = 0; t < T; ++t) rows[t][r] = to_float(acc[r][t]) * multiplier;
        }
        finish<T>(task, quad, rows, how);
    }
}

template <int T = 1>
void qdense(const QLinearTask& task) {
    if constexpr (T < Q_DENSE_VECTORS)
        if (task.vectors > T) return qdense<T + 1>(task);
    qdense_rows<T>(task);
}

// One position. Rows of weights lie one after the other, `words` long.
void qmatvec(const QMatvecTask& task) {
    const float low = task.out.low - task.out.zero, high = task.out.high - task.out.zero;
    const Sum sum = task.sum;
    for (int row = 0; row < task.rows; ++row) {
        const uint32_t* weights = task.weights + row * task.words;
        int32_t acc = task.bias[row];
        int64_t k = 0;
#if MMRT_WIDTH == 8 || MMRT_WIDTH == 16
        __m256i sums = _mm256_setzero_si256();
        for (; k + 8 <= task.words; k += 8) {
            const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(task.x + k));
            const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + k));
            __builtin_prefetch(weights + k + 512);
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
        }
        int32_t lanes[8];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
        for (int32_t lane : lanes) acc += lane;
#elif defined(__aarch64__) && MMRT_WIDTH > 1
        VI sums = splat_int(0);
        for (; k + W <= task.words; k += W) sums = dot(sums, load_flipped(task.x + k), vld1q_s8(reinterpret_cast<const int8_t*>(weights + k)));
        acc += vaddvq_s32((int32x4_t)sums);
#endif
        for (; k < task.words; ++k)
            for (int i = 0; i < 4; ++i)
                acc += (static_cast<int32_t>((task.x[k] ^ FLIPPED) >> (8 * i) & 255) - Q_OFFSET) * static_cast<int8_t>(weights[k] >> (8 * i));
        auto nearest = [](float value, float low, float high) { return std::nearbyint(value < low ? low : value > high ? high : value); };
        float q = nearest(static_cast<float>(acc) * task.multiplier[row], low, high) + task.out.zero;
        if (task.residual) {
            const float other = static_cast<uint8_t>(task.residual[row] ^ FLIPPED), a = task.residual_first ? other : q, b = task.residual_first ? q : other;
            q = nearest(std::fma(a, sum.a_ratio, std::fma(b, sum.b_ratio, sum.offset)), sum.low, sum.high);
        }
        task.y[row] = static_cast<uint8_t>(static_cast<uint32_t>(q) ^ FLIPPED);
    }
}

void qmaximum(const uint32_t* x, uint32_t* y, int64_t positions, const int32_t* taps, int n_taps) {
    using Byte = std::conditional_t<FLIPPED != 0, int8_t, uint8_t>;
    typedef Byte VB __attribute__((vector_size(W * 4)));
    for (int64_t p = 0; p < positions; p += W) {
        VB most = bits_as<VB>(load_flipped(x + p + taps[0]));
        for (int t = 1; t < n_taps; ++t) {
            const VB next = bits_as<VB>(load_flipped(x + p + taps[t]));
            most = most > next ? most : next;
        }
        store_flipped(y + p, bits_as<VI>(most));
    }
}

// A byte's upper four bits choose one of 16 instructions' tables, its lower four an entry of it.
void qtable(const uint8_t* table, const uint32_t* x, uint32_t* y, int64_t positions) {
#if defined(__AVX512BW__)
    __m512i parts[16];
    for (int k = 0; k < 16; ++k) parts[k] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * k)));
    for (int64_t p = 0; p < positions; p += W) {
        const __m512i bytes = (__m512i)load_flipped(x + p);
        __m512i out = _mm512_setzero_si512();
        for (int k = 0; k < 16; ++k) {  // where another part is meant, the highest bit is set, and the entry 0
            const __m512i index = _mm512_adds_epu8(_mm512_xor_si512(bytes, _mm512_set1_epi8(static_cast<char>(16 * k))), _mm512_set1_epi8(0x70));
            out = _mm512_or_si512(out, _mm512_shuffle_epi8(parts[k], index));
        }
        store_flipped(y + p, (VI)out);
    }
#elif MMRT_WIDTH == 8 || MMRT_WIDTH == 16
    for (int64_t p = 0; p < positions; p += 8) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + p));
        __m256i out = _mm256_setzero_si256();
        for (int k = 0; k < 16; ++k) {
            const __m256i part = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * k)));
            const __m256i index = _mm256_adds_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(static_cast<char>(16 * k))), _mm256_set1_epi8(0x70));
            out = _mm256_or_si256(out, _mm256_shuffle_epi8(part, index));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + p), out);
    }
#elif defined(__aarch64__) && MMRT_WIDTH > 1
    uint8x16x4_t parts[4];
    for (int k = 0; k < 4; ++k) parts[k] = vld1q_u8_x4(table + 64 * k);
    for (int64_t p = 0; p < positions; p += W) {
        uint8x16_t bytes = (uint8x16_t)load_flipped(x + p), out = vqtbl4q_u8(parts[0], bytes);
        for (int k = 1; k < 4; ++k) out = vqtbx4q_u8(out, parts[k], vsubq_u8(bytes, vdupq_n_u8(static_cast<uint8_t>(64 * k))));
        store_flipped(y + p, (VI)out);
    }
#else
    const uint8_t* from = reinterpret_cast<const uint8_t*>(x);
    uint8_t* to = reinterpret_cast<uint8_t*>(y);
    for (int64_t i = 0; i < 4 * positions; ++i) to[i] = table[from[i]];
#endif
}

void qadd(const Sum& sum, const uint32_t* a, const uint32_t* b, uint32_t* y, int64_t positions) {
    const Adding adding = adding_of(sum);
    for (int64_t p = 0; p < positions; p += W) {
        V left[4], right[4];
        read_rows(a + p, left), read_rows(b + p, right);
        store_flipped(y + p, added(left, right, adding));
    }
}

// Up to four rows of floats become one of words.
void quantize(const float* x, int64_t x_stride, int channels, uint32_t* y, int64_t positions, float scale, const Rounding& out) {
    const Steps how = steps_of(scale, out.low - out.zero, out.high - out.zero);
    const VI zero = splat_int(static_cast<int32_t>(out.zero));
    for (int64_t p = 0; p < positions; p += W) {
        VI words = splat_int(0);
        for (int c = 0; c < channels; ++c) words |= at_byte(to_int(steps(load(x + c * x_stride + p), how)) + zero, c);
        store_words(y + p, words);
    }
}

void dequantize(const uint32_t* x, float* y, int64_t y_stride, int channels, int64_t positions, float scale, float zero) {
    for (int64_t p = 0; p < positions; p += W) {
        const VI words = load_words(x + p);
        for (int c = 0; c < channels; ++c) store(y + c * y_stride + p, (to_float(byte_of(words, c)) - splat(zero)) * splat(scale));
    }
}

}  // namespace
}  // namespace mmrt
