// NEON with dot products: four products of bytes and their sum are one instruction, which multiplies by a lane too.
#pragma once

#include "neon_floats.h"

namespace mmrt {
namespace {

MMRT_INLINE VI dot(VI acc, VI x, Four w) { return (VI)vdotq_s32((int32x4_t)acc, (int8x16_t)x, w); }

constexpr int Q_PAIRED = 4 * MOST_WEIGHT;  // any: sums are of 32 bits
using Two = int8x16_t;                     // both blocks as they lie: offset, weights, offset, weights
MMRT_INLINE Two two_weights(const QBlock* block) { return vld1q_s8(reinterpret_cast<const int8_t*>(block)); }
MMRT_INLINE VI dot_two(VI acc, VI x, VI other, Two w) {
    return (VI)vdotq_laneq_s32(vdotq_laneq_s32((int32x4_t)acc, (int8x16_t)x, w, 1), (int8x16_t)other, w, 3);
}

// Inputs that are loaded once for four outputs pay: loads bound the loop otherwise.
constexpr int Q_DENSE_VECTORS = 6;
constexpr double Q_DENSE_FROM = 0.7;
using Quad = int8x16_t;
MMRT_INLINE Quad quad_weights(const uint32_t* w) { return vreinterpretq_s8_u32(vld1q_u32(w)); }
template <int ROW>
MMRT_INLINE VI dot_row(VI acc, VI x, Quad w) {
    return (VI)vdotq_laneq_s32((int32x4_t)acc, (int8x16_t)x, w, ROW);
}

}  // namespace
}  // namespace mmrt

#include "neon_line.h"
