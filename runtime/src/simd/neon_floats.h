// NEON: four floats, four words, and all on bytes but their products.
#pragma once

#include <arm_neon.h>

namespace mmrt {
namespace {

constexpr int W = 4;
constexpr int SPARSE_VECTORS = 16, DENSE_ROWS = 8, DENSE_VECTORS = 3;
constexpr int QUAD_VECTORS = 5;
constexpr double QUADS_BELOW = 0.9;
constexpr double SPARSE_BELOW = 0.6, SPARSE_BELOW_TAPS = 0.6;
constexpr bool BY_LANE = true;  // a vector's lane is multiplied by, so four weights take one load; x86 reads one into all lanes as fast
constexpr bool MAX_KEEPS_NAN = true;

}  // namespace
}  // namespace mmrt

#include "wide.h"

namespace mmrt {
namespace {

MMRT_INLINE V splat(float a) { return (V)vdupq_n_f32(a); }
MMRT_INLINE V vmax(V a, V b) { return (V)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
MMRT_INLINE V vmin(V a, V b) { return (V)vminq_f32((float32x4_t)a, (float32x4_t)b); }
MMRT_INLINE V vmax_nan(V a, V b) { return vmax(a, b); }
MMRT_INLINE V vsqrt(V a) { return (V)vsqrtq_f32((float32x4_t)a); }
MMRT_INLINE V vfma(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
// p in a register of its own: loads relative to it then go in pairs (ldp).
MMRT_INLINE const float* in_register(const float* p) {
    asm("" : "+r"(p));
    return p;
}

MMRT_INLINE V load_part(const float* p, int64_t n) {
    float part[W] = {};
    std::memcpy(part, p, n * sizeof(float));
    return load(part);
}
MMRT_INLINE void store_part(float* p, V v, int64_t n) {
    float part[W];
    store(part, v);
    std::memcpy(p, part, n * sizeof(float));
}

MMRT_INLINE VI splat_int(int32_t a) { return (VI)vdupq_n_s32(a); }
MMRT_INLINE VI to_int(V v) { return (VI)vcvtnq_s32_f32((float32x4_t)v); }

constexpr int Q_VECTORS = 16;  // half of the registers
constexpr double Q_COPIED = 0;
constexpr int Q_OFFSET = 128;
constexpr int Q_SUMS = 1;
using Four = int8x16_t;
MMRT_INLINE Four four_weights(uint32_t w) { return vreinterpretq_s8_u32(vdupq_n_u32(w)); }

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

// A byte's upper two bits choose one of 4 instructions' tables, its lower six an entry of it.
struct Table {
    uint8x16x4_t parts[4];
};
MMRT_INLINE Table table_of(const uint8_t* entries) {
    Table table;
    for (int k = 0; k < 4; ++k) table.parts[k] = vld1q_u8_x4(entries + 64 * k);
    return table;
}
MMRT_INLINE VI look_up(const Table& table, VI words) {
    const uint8x16_t bytes = (uint8x16_t)words;
    uint8x16_t out = vqtbl4q_u8(table.parts[0], bytes);
    for (int k = 1; k < 4; ++k) out = vqtbx4q_u8(out, table.parts[k], vsubq_u8(bytes, vdupq_n_u8(static_cast<uint8_t>(64 * k))));
    return (VI)out;
}

// A depthwise convolution's sums, of two vectors of positions.
constexpr int Q_TAPS = 1, MOST_TAPS = 3, CHANNEL_WORDS = 8, CHANNEL_STEPS = 1;
constexpr bool Q_ALONE = false;

struct Channels {
    float32x4_t multiplier;
    int32x4_t start;
    Narrowing to;
};
MMRT_INLINE Channels channels_of(const QDepthwiseTask& task) { return {vld1q_f32(task.multiplier), vld1q_s32(task.bias), narrowing_of(task.out)}; }

template <int>
struct ChannelSums {
    int32x4_t of[8];  // a position's four channels each
    explicit inline __attribute__((always_inline)) ChannelSums(const Channels& how) {
        for (int32x4_t& sum : of) sum = how.start;
    }
};
template <int N, int T>
MMRT_INLINE void add_taps(ChannelSums<T>& sums, const uint32_t* x, const int32_t* taps, const int8_t* weights) {
    static_assert(N * 128 * MOST_WEIGHT < 1 << 15, "fits 16 bits");
    int16x8_t products[4];
    for (int i = 0; i < N; ++i) {
        const int8x16_t w = vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(weights) + i));
        for (int v = 0; v < 2; ++v) {
            const int8x16_t a = (int8x16_t)load_ints(x + taps[i] + 4 * v);
            int16x8_t &front = products[2 * v], &back = products[2 * v + 1];
            front = i == 0 ? vmull_s8(vget_low_s8(a), vget_low_s8(w)) : vmlal_s8(front, vget_low_s8(a), vget_low_s8(w));
            back = i == 0 ? vmull_high_s8(a, w) : vmlal_high_s8(back, a, w);
        }
    }
    for (int k = 0; k < 4; ++k) {
        sums.of[2 * k] = vaddw_s16(sums.of[2 * k], vget_low_s16(products[k]));
        sums.of[2 * k + 1] = vaddw_high_s16(sums.of[2 * k + 1], products[k]);
    }
}
template <int T>
MMRT_INLINE void store_channels(uint32_t* y, const ChannelSums<T>& sums, const Channels& how) {
    auto whole = [&](int i) { return vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums.of[i]), how.multiplier)); };
    for (int v = 0; v < 2; ++v) {
        const int16x8_t front = vqmovn_high_s32(vqmovn_s32(whole(4 * v)), whole(4 * v + 1));
        const int16x8_t back = vqmovn_high_s32(vqmovn_s32(whole(4 * v + 2)), whole(4 * v + 3));
        store_ints(y + 4 * v, (VI)in_bytes(front, back, how.to));
    }
}

}  // namespace
}  // namespace mmrt

#include "packed_floats.h"
#include "rounding.h"
#include "shifted_rows.h"
