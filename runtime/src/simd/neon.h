// NEON alone: products of bytes are added in pairs in 16 bits.
#pragma once

#include "neon_floats.h"

namespace mmrt {
namespace {

constexpr int Q_DENSE_VECTORS = 0;
constexpr double Q_DENSE_FROM = 0.5;

MMRT_INLINE VI dot(VI acc, VI x, Four w) {
    const int8x16_t s = (int8x16_t)x;
    const int16x8_t low = vmull_s8(vget_low_s8(s), vget_low_s8(w)), high = vmull_high_s8(s, w);
    return (VI)vpadalq_s16((int32x4_t)acc, vpaddq_s16(low, high));
}

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

}  // namespace
}  // namespace mmrt

#include "neon_line.h"
#include "quads.h"
